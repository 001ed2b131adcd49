// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// kills is how often ramjet is killed, normal times unless RAMJET_KILLS says (make soak). More find more.
func kills(normal int) int {
	if n, err := strconv.Atoi(os.Getenv("RAMJET_KILLS")); err == nil {
		return n
	}
	return normal
}

// TestKill kills ramjet with SIGKILL at random moments of a save. The VM runs within a second, nothing is
// left that could be taken for an image, and an old image stays.
func TestKill(t *testing.T) {
	v := boot(t, vm.Config{Memory: "256M", Backend: vm.Memfd, Fill: 60})
	i := lookBefore(t, v)
	dir := directory(t)
	old := filepath.Join(dir, "image")
	id := must[save.Result](t, "save", "--qmp", v.QMP, old).ID
	settings := migrationSettings(t, v)
	var paused, ended int
	times := kills(60)
	for n := range times {
		args := []string{"save", "--qmp", v.QMP}
		image := filepath.Join(dir, "new")
		if n%3 == 0 {
			image = old
			args = append(args, "--force")
		}
		if n%4 == 3 {
			args = append(args, "--engine=qemu")
		}
		if n%7 == 6 {
			args = append(args, "--live")
		}
		if n%5 != 0 { // else as fast as it can, so that the ends are hit too
			args = append(args, "--max-bandwidth=300M")
		}
		r := start(t, append(args, image)...)
		time.Sleep(time.Duration(rand.Int64N(int64(400 * time.Millisecond))))
		select {
		case <-r.over():
			ended++
		default:
			if status(t, v) != "running" {
				paused++
			}
		}
		r.Process.Kill()
		runsAgain(t, v)
		noProcess(t)
		whatIsThere(t, dir, image, old, &id)
		if sets, err := v.Query("query-fdsets"); err != nil || string(sets) != "[]" {
			t.Errorf("QEMU still has the descriptor sets %s, %v", sets, err)
		}
		if t.Failed() {
			t.Fatalf("killed for the %d. time: %s", n+1, strings.Join(r.Args[1:], " "))
		}
		os.Remove(filepath.Join(dir, "new"))
	}
	i.check(t, dir, "image")
	if now := migrationSettings(t, v); now != settings {
		t.Errorf("QEMU is set to %s, it was to %s", now, settings)
	}
	g := revive(t, v, false, old)
	sameGuest(t, g, i.before, look(t, v, false), false)
	t.Logf("%d kills: %d while the VM stood still, %d after the end", times, paused, ended)
	if paused < times/20 {
		t.Errorf("only %d of %d kills hit the pause", paused, times)
	}
}

// over is closed when the process has ended.
func (r *running) over() <-chan struct{} {
	done := make(chan struct{})
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", r.Process.Pid)); err != nil || len(b) == 0 {
		close(done)
	}
	return done
}

// runsAgain waits at most a second for the VM to run.
func runsAgain(t *testing.T, v *vm.VM) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		s := status(t, v)
		if s == "running" {
			return
		}
		if time.Since(begin) > time.Second {
			t.Fatalf("a second after the kill the VM is %s", s)
		}
	}
}

// whatIsThere checks the directory after a kill: the old image as it was, or a whole new one.
func whatIsThere(t *testing.T, dir, img, old string, id *string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	do(t, err)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if path != img && path != old {
			t.Errorf("%s is left", path)
			continue
		}
		r, err := image.Verify(t.Context(), image.VerifyOptions{Image: path})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if now := r.ID; path == old && img != old && now != *id {
			t.Errorf("the old image is %s, it was %s", now, *id)
		} else if path == old {
			*id = now
		}
	}
	if _, err := os.Stat(old); err != nil {
		t.Error(err)
	}
}

// migrationSettings are those that a save by QEMU changes.
func migrationSettings(t *testing.T, v *vm.VM) string {
	t.Helper()
	var capabilities, parameters json.RawMessage
	do(t, v.Execute("query-migrate-capabilities", nil, &capabilities))
	do(t, v.Execute("query-migrate-parameters", nil, &parameters))
	return string(capabilities) + string(parameters)
}
