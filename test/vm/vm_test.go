// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// need stops the test at an error.
func need[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// right fails the test unless the guest's memory is what it has to be.
func right(t *testing.T, v *VM, pages int) Checked {
	t.Helper()
	c := need[Checked](t)(v.Check())
	if c.Wrong != 0 || c.Pages != pages {
		t.Fatalf("%v, want %d right ones", c, pages)
	}
	return c
}

func TestMachines(t *testing.T) {
	Need(t)
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-f", "qcow2", disk, "64M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	for name, c := range map[string]Config{
		"pc":            {Fill: 64, Seed: 1},
		"q35":           {Fill: 64, Seed: 2, Machine: "q35", Backend: Memfd, CPUs: 2, Disk: disk, Net: true, Balloon: true},
		"nodes":         {Fill: 64, Seed: 3, Backend: Memfd, Nodes: 2},
		"memfd-private": {Fill: 64, Seed: 4, Backend: MemfdPrivate},
		"file":          {Fill: 64, Seed: 5, Backend: File},
		"file-private":  {Fill: 64, Seed: 6, Backend: FilePrivate, Memory: "384M"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := Run(t, c)
			t.Logf("boot %v", v.Boot)
			before := right(t, v, 64*256)
			if again := right(t, v, 64*256); again.Sum != before.Sum {
				t.Errorf("sum %x, then %x, of memory that nobody changed", before.Sum, again.Sum)
			}
			stopAndGo(t, v)
			if c.Disk != "" {
				devices(t, v)
			}
			allocated(t, v, c)
			dir := t.TempDir()
			for _, a := range v.ArgsIn(dir) {
				if strings.Contains(a, v.Dir+"/") {
					t.Errorf("%s is in ArgsIn", a)
				}
			}
		})
	}
}

// stopAndGo shows that the counters stand while QEMU has the guest stopped, and
// that a new connection finds the guest as the one before left it.
func stopAndGo(t *testing.T, v *VM) {
	t.Helper()
	ok(t, v.Stop())
	if s := need[string](t)(v.Status()); s != "paused" {
		t.Fatalf("status %s after stop", s)
	}
	v.Close()
	time.Sleep(300 * time.Millisecond)
	w := need[*VM](t)(Connect(t.Context(), v.Serial, v.QMP))
	ok(t, w.Cont())
	w.Close()
	w = need[*VM](t)(Attach(t.Context(), v.Serial, v.QMP))
	if w.PID != v.PID {
		t.Errorf("attached to process %d, started %d", w.PID, v.PID)
	}
	v.console = w.console
	count := need[uint64](t)(v.Count())
	cpus := need[[]uint64](t)(v.CPUCounts())
	for later := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		all := need[uint64](t)(v.Count()) > count
		for i, n := range need[[]uint64](t)(v.CPUCounts()) {
			all = all && n > cpus[i]
		}
		if all {
			return
		}
		if time.Now().After(later) {
			t.Fatal("the guest's counters stand still")
		}
	}
}

func devices(t *testing.T, v *VM) {
	t.Helper()
	ok(t, v.WriteDisk(0, 100))
	ok(t, v.WriteDisk(50, 100))
	if c := need[Checked](t)(v.CheckDisk()); c.Pages != 150 || c.Wrong != 0 {
		t.Errorf("disk: %v, want 150 right", c)
	}
	info := need[string](t)(v.Command("info"))
	for _, want := range []string{" cpus=2 ", " disk=67108864", " mac=52:54:00:12:34:56"} {
		if !strings.Contains(info, want) {
			t.Errorf("no %q in %s", want, info)
		}
	}
}

func allocated(t *testing.T, v *VM, c Config) {
	t.Helper()
	n := need[int64](t)(v.Allocated())
	switch c.Backend {
	case Memfd, File:
		if n < 64<<20 {
			t.Errorf("%d bytes allocated with 64 MiB filled", n)
		}
	case MemfdPrivate:
		// The first write to a page of a private mapping of a memfd allocates
		// the memfd's page too, and then copies it: such a guest takes twice
		// its memory. Nothing to insist on.
	default:
		if n != 0 {
			t.Errorf("%d bytes allocated in files by private memory", n)
		}
	}
}

// TestMemory has the guest do all it can do to its memory.
func TestMemory(t *testing.T) {
	v := Run(t, Config{Fill: 32, Seed: 7, Backend: Memfd, Tick: 50 * time.Millisecond})
	first := right(t, v, 32*256)

	ok(t, v.Touch(100, 7))
	second := right(t, v, 32*256)
	if first.Sum == second.Sum {
		t.Error("the sum does not see pages that were touched")
	}
	ok(t, v.Zero(1000, 500))
	ok(t, v.Free(2000, 1000))
	if c := right(t, v, 32*256); c.Zero != 1500 {
		t.Errorf("%d pages are zero, want 1500", c.Zero)
	}
	ok(t, v.Fill(48))
	if c := right(t, v, 48*256); c.Zero != 0 {
		t.Errorf("%d pages are zero after fill", c.Zero)
	}

	ok(t, v.Dirty(50))
	ok(t, v.Watch(100))
	a := right(t, v, 48*256)
	for later := time.Now().Add(10 * time.Second); right(t, v, 48*256).Sum == a.Sum; {
		if time.Now().After(later) {
			t.Fatal("nothing gets dirty")
		}
	}
	if got := v.Corrupt(); len(got) > 0 {
		t.Errorf("the watch found %q", got)
	}
	if n, at := v.Tick(); n == 0 || at.IsZero() {
		t.Error("no tick line came")
	}
	for _, bad := range []string{"fill 100000", "zero 0 100000000", "touch 5000 3", "nonsense", "dirty", "fill x", "disk check"} {
		if s, err := v.Command(bad); err == nil {
			t.Errorf("%s: %s, want an error", bad, s)
		}
	}
	ok(t, v.PowerOff())
	select {
	case <-v.Exited():
	case <-time.After(20 * time.Second):
		t.Error("QEMU does not end after poweroff")
	}
}

// TestCorruption changes one byte of the guest's memory from outside. The check
// and the watch have to find it, and to be content when it is undone.
func TestCorruption(t *testing.T) {
	v := Run(t, Config{Fill: 16, Seed: 8})
	const page = 1234
	addr := need[uint64](t)(v.Where(page))
	var b [8]byte
	ok(t, v.Peek(addr+4088, b[:]))
	b[7] ^= 0x10
	ok(t, v.Poke(addr+4088, b[:]))

	c := need[Checked](t)(v.Check())
	if c.Wrong != 1 || c.First != page {
		t.Errorf("%v, want only page %d wrong", c, page)
	}
	ok(t, v.Watch(200))
	for later := time.Now().Add(20 * time.Second); len(v.Corrupt()) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(later) {
			t.Fatal("the watch found nothing")
		}
	}
	if got := v.Corrupt()[0]; !strings.HasPrefix(got, "page=1234 ") {
		t.Errorf("the watch found %q", got)
	}
	b[7] ^= 0x10
	ok(t, v.Poke(addr+4088, b[:]))
	right(t, v, 16*256)
}

func TestStartErrors(t *testing.T) {
	Need(t)
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{QEMU: "/nonexistent/qemu"}, "/nonexistent/qemu"},
		{Config{Memory: "lots"}, `"lots" is not a memory size`},
		{Config{ExtraArgs: []string{"-device", "no-such-device"}}, "'no-such-device' is not a valid device model"},
		{Config{Append: "rdinit=/none"}, "Kernel panic"},
		{Config{Memory: "128M", Fill: 200}, "ramjet.fill=200"},
	} {
		v, err := Start(t.Context(), c.config)
		if err == nil {
			v.Kill()
			t.Errorf("%+v: no error, want one with %q", c.config, c.want)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v; want %q in it", c.config, err, c.want)
		}
	}
}

func TestKillLeavesNothing(t *testing.T) {
	v := Run(t, Config{Memory: "256M"})
	v.Close()
	w := need[*VM](t)(Attach(t.Context(), v.Serial, ""))
	ok(t, w.Kill())
	select {
	case <-v.Exited():
	case <-time.After(5 * time.Second):
		t.Errorf("process %d is still there", w.PID)
	}
	ok(t, v.Kill())
	ok(t, v.Kill())
	if _, err := os.Stat(v.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", v.Dir)
	}
}
