// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/testkit"
)

// TestPrefetcherIsNice looks at the process that reads behind a guest before it has been told what: within its session, and as a session.
func TestPrefetcherIsNice(t *testing.T) {
	c := exec.Command("/proc/self/exe")
	c.Args = []string{prefetcherName}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	order, err := c.StdinPipe()
	testkit.Check(t, err)
	testkit.Check(t, c.Start())
	defer c.Wait()
	defer order.Close()

	const nice = 20 - 19 // as the system call has it (getpriority(2))
	group, says := fmt.Sprintf("/proc/%d/autogroup", c.Process.Pid), ""
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		own, err := unix.Getpriority(unix.PRIO_PROCESS, c.Process.Pid)
		testkit.Check(t, err)
		b, err := os.ReadFile(group)
		if says = string(b); own == nice && (err != nil || strings.HasSuffix(says, "nice 19\n")) {
			return
		}
	}
	t.Errorf("it is not the last in line after 10 s: autogroup %q", says)
}
