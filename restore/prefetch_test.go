// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/testkit"
)

func TestMain(m *testing.M) {
	RunAttendant()
	os.Exit(m.Run())
}

// TestPrefetcherIsNice looks at the process that reads behind a guest before it has been told what: within its session, and as a session.
func TestPrefetcherIsNice(t *testing.T) {
	p, err := Prefetcher.Start(nil)
	testkit.Check(t, err)
	defer p.Close()

	const nice = 20 - 19 // as the system call has it (getpriority(2))
	group, says := fmt.Sprintf("/proc/%d/autogroup", p.PID()), ""
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		own, err := unix.Getpriority(unix.PRIO_PROCESS, p.PID())
		testkit.Check(t, err)
		b, err := os.ReadFile(group)
		if says = string(b); own == nice && (err != nil || strings.HasSuffix(says, "nice 19\n")) {
			return
		}
	}
	t.Errorf("it is not the last in line after 10 s: autogroup %q", says)
}
