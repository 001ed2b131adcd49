// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// mostResident is what ramjet may take at any time, in bytes, whatever the guest's size.
const mostResident = 64 << 20

// TestResources is about what a save and a restore take: memory, disk, and of the guest's memory nothing.
func TestResources(t *testing.T) {
	guests := []vm.Config{
		{Memory: "512M", Fill: 300, Backend: vm.Memfd},
		{Memory: "2G", Fill: 600},
	}
	if vm.Long() {
		guests = []vm.Config{
			{Memory: "512M", Fill: 380},
			{Memory: "512M", Fill: 380, Backend: vm.Memfd},
			{Memory: "2G", Fill: 1750},
			{Memory: "2G", Fill: 1750, Backend: vm.Memfd},
		}
	}
	for _, c := range guests {
		t.Run(fmt.Sprintf("%s %s", c.Memory, c.Backend), func(t *testing.T) {
			v := boot(t, c)
			do(t, v.Stop()) // so that it allocates nothing itself
			allocated, err := v.Allocated()
			do(t, err)
			before := populated(t, v)
			image := filepath.Join(directory(t), "image")
			for n, engine := range []string{"ramjet", "ramjet", "qemu"} {
				then := "resume"
				if engine == "qemu" {
					then = "quit" // QEMU's engine cannot leave a paused VM as it was
				}
				o, peak := measured(t, "save", "--qmp", v.QMP, "--json", "--force", "--engine="+engine, "--then="+then, fmt.Sprint("--channels=", []int{4, 255, 2}[n]), image)
				if engine == "ramjet" {
					left(t, v, allocated, before)
				}
				var r save.Result
				do(t, json.Unmarshal([]byte(o.out), &r))
				t.Logf("%s: %d MiB stored in %.2f s, %d MiB resident", engine, r.BytesStored>>20, r.DurableSeconds, peak>>20)
				if peak > mostResident {
					t.Errorf("the save by %s took %d MiB of memory", engine, peak>>20)
				}
				sparse(t, image, &r)
			}
			do(t, v.Kill())
			restoreSmall(t, v, image, "--mode=instant").Kill()
			restoreSmall(t, v, image, "--mode=eager").Kill()
			g := restoreSmall(t, v, image, "--mode=eager", "--channels=255")
			do(t, g.Cont())
			whole(t, g)
		})
	}
}

// left checks that a save has left the guest's holes holes.
func left(t *testing.T, v *vm.VM, allocated, before int64) {
	t.Helper()
	now, err := v.Allocated()
	do(t, err)
	if now != allocated {
		t.Errorf("the memory's files take %d bytes, they took %d before the save", now, allocated)
	}
	// A page table, and a probe of each block of private memory, is all that may come.
	if after := populated(t, v); after > before+1<<20 {
		t.Errorf("QEMU has %d KiB resident, it had %d before the save", after>>10, before>>10)
	}
}

// sparse checks that an image takes no more disk than what it stores, and who may read it.
func sparse(t *testing.T, image string, r *save.Result) {
	t.Helper()
	var st unix.Stat_t
	do(t, unix.Stat(image, &st))
	if st.Mode&0o777 != 0o600 {
		t.Errorf("the image has the mode %o", st.Mode&0o777)
	}
	// Beside the pages: eight bytes a page for their sums, headers, devices.
	most := r.PagesStored*(4096+8) + 2<<20
	if disk := st.Blocks * 512; disk > most || disk < r.BytesStored || r.PagesZero < 10000 {
		t.Errorf("the image takes %d KiB of disk for %d pages (%d KiB), %d zero ones aside", disk>>10, r.PagesStored, r.BytesStored>>10, r.PagesZero)
	}
}

func restoreSmall(t *testing.T, v *vm.VM, image string, flags ...string) *vm.VM {
	t.Helper()
	dir := directory(t)
	args := append([]string{"restore", "--detach", "--json", image}, flags...)
	o, peak := measured(t, append(append(args, "--", v.Program), v.ArgsIn(dir)...)...)
	var r restore.Result
	do(t, json.Unmarshal([]byte(o.out), &r))
	t.Cleanup(func() { kill(r.PID) })
	t.Logf("%s: loaded after %.3f s, %d MiB resident", strings.Join(flags, " "), r.RunningSeconds, peak>>20)
	if peak > mostResident {
		t.Errorf("the restore %q took %d MiB of memory", flags, peak>>20)
	}
	return sleeping(t, dir)
}

// measured runs ramjet, which has to succeed, and returns the most memory that its processes had resident together, in bytes.
func measured(t *testing.T, args ...string) (outcome, int64) {
	t.Helper()
	defer unix.Umask(unix.Umask(0)) // no mask is to thank for the image's mode
	r := start(t, args...)
	done := make(chan outcome)
	go func() { done <- r.end(t) }()
	var peak int64
	for {
		select {
		case o := <-done:
			if o.status != 0 || o.err != "" {
				t.Fatalf("status %d, says %q", o.status, o.err)
			}
			return o, peak
		case <-time.After(2 * time.Millisecond):
			peak = max(peak, resident())
		}
	}
}

var (
	highWater   = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB`)
	residentNow = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB`)
	ofFiles     = regexp.MustCompile(`(?m)^RssFile:\s+(\d+) kB`)
)

// resident adds up the high-water marks of the processes of the program under test: ramjet and what it starts beside a VM. They are one
// program, whose file is in memory once.
func resident() (sum int64) {
	var program int64
	for _, pid := range pids() {
		file := statusOf(pid, ofFiles)
		program = max(program, file)
		sum += statusOf(pid, highWater) - file
	}
	return sum + program
}

// populated is what a QEMU has resident, in bytes.
func populated(t *testing.T, v *vm.VM) int64 {
	t.Helper()
	return statusOf(v.PID, residentNow)
}

func statusOf(pid int, line *regexp.Regexp) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	m := line.FindSubmatch(b)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return n << 10
}
