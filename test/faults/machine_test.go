// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// machine is a real QEMU with nothing in it but its firmware, which has found no disk and counts the ticks of its
// clock: it starts in no time and its memory is small. There is data of ours in it.
type machine struct {
	*bare
	socket string // the monitor that is ours
	memory [32]byte
}

// bare is a QEMU and the test's own way to its monitor.
type bare struct {
	t       *testing.T
	pid     int
	monitor *qmp.Client
}

const machineSize = 16 << 20

// newMachine starts one. backend is "memfd" or "ram".
func newMachine(t *testing.T, backend string) *machine {
	t.Helper()
	vm.Need(t)
	dir := t.TempDir()
	m := &machine{socket: filepath.Join(dir, "qmp")}
	own := filepath.Join(dir, "own")
	share := map[string]string{"memfd": ",share=on", "ram": ""}[backend]
	pid := startQEMU(t, "-machine", "pc,memory-backend=ram0", "-object", fmt.Sprintf("memory-backend-%s,id=ram0,size=%d%s", backend, machineSize, share),
		"-m", "16M", "-nodefaults", "-display", "none",
		"-qmp", "unix:"+m.socket+",server=on,wait=off", "-chardev", "socket,id=own,path="+own+",server=on,wait=off", "-mon", "chardev=own,mode=control")
	m.bare = attachBare(t, pid, own)
	for deadline := time.Now().Add(20 * time.Second); m.ticks() == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the firmware does not run")
		}
	}
	m.settle()
	m.fill()
	m.memory = m.sum()
	return m
}

// settle waits until the firmware has set up its memory and looks for something to boot, however busy the processors are.
func (m *machine) settle() {
	const moment = 300 * time.Millisecond
	for deadline := time.Now().Add(20 * time.Second); ; {
		before, ticks := m.sum(), m.ticks()
		time.Sleep(moment)
		switch {
		case m.sum() == before && m.ticks() != ticks:
			return
		case time.Now().After(deadline):
			m.t.Fatal("the firmware does not come to rest")
		}
	}
}

// startQEMU starts a QEMU that ends with the test, however that ends: the kernel sends the signal at the death of the thread
// that started it, so that thread waits as long as QEMU lives.
func startQEMU(t *testing.T, args ...string) (pid int) {
	t.Helper()
	c := exec.Command(lookPath(t), append([]string{"-accel", vm.Accelerator()}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(ended)
		err := c.Start()
		started <- err
		if err == nil {
			c.Wait()
		}
	}()
	do(t, <-started)
	t.Cleanup(func() { c.Process.Kill(); <-ended })
	return c.Process.Pid
}

func attachBare(t *testing.T, pid int, socket string) *bare {
	t.Helper()
	b := &bare{t: t, pid: pid}
	var err error
	for range 500 {
		if b.monitor, err = qmp.Dial(t.Context(), socket); err == nil {
			t.Cleanup(func() { b.monitor.Close() })
			return b
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
	return nil
}

func (b *bare) status() string {
	b.t.Helper()
	var s struct{ Status string }
	do(b.t, b.monitor.Execute(b.t.Context(), "query-status", nil, &s))
	return s.Status
}

// runs waits at most a second for the VM to run.
func (b *bare) runs() {
	b.t.Helper()
	for deadline := time.Now().Add(time.Second); b.status() != "running"; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the VM is %s", b.status())
		}
	}
}

// clean checks that QEMU has nothing of ours any more.
func (b *bare) clean() {
	b.t.Helper()
	sets, err := b.monitor.QueryFDSets(b.t.Context())
	do(b.t, err)
	if len(sets) != 0 {
		b.t.Errorf("QEMU still has the descriptor sets %v", sets)
		for _, s := range sets {
			_ = b.monitor.RemoveFDSet(b.t.Context(), s.ID)
		}
	}
}

// ticks is the firmware's clock: 18.2 a second, at 0x46c.
func (b *bare) ticks() (n int) {
	b.t.Helper()
	text, err := b.monitor.Human(b.t.Context(), "xp /1wx 0x46c")
	do(b.t, err)
	_, value, _ := strings.Cut(text, ": ")
	fmt.Sscanf(strings.TrimSpace(value), "0x%x", &n)
	return n
}

// ram is all of the machine's main memory, in QEMU's process, from 1 MiB on.
func (m *machine) ram(t *testing.T, use func(f *os.File, at int64)) {
	t.Helper()
	text, err := m.monitor.Human(t.Context(), "gpa2hva 0x100000")
	do(t, err)
	var at int64
	if _, hex, ok := strings.Cut(text, " is 0x"); ok {
		fmt.Sscanf(hex, "%x", &at)
	}
	if at == 0 {
		t.Fatalf("gpa2hva: %q", text)
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", m.pid), os.O_RDWR, 0)
	do(t, err)
	defer f.Close()
	use(f, at)
}

// fill puts data into the memory: a long run, some short ones, single pages, and pages of zeros that exist.
func (m *machine) fill() {
	m.ram(m.t, func(f *os.File, at int64) {
		r := rand.NewChaCha8([32]byte{1})
		put := func(page, n int64) {
			b := make([]byte, n*4096)
			r.Read(b)
			_, err := f.WriteAt(b, at+page*4096)
			do(m.t, err)
		}
		put(256, 400)
		put(1024, 40)
		for i := range int64(20) {
			put(1200+3*i, 1)
		}
		_, err := f.WriteAt(make([]byte, 64*4096), at+1400*4096)
		do(m.t, err)
		put(2900, 17)
	})
}

func (m *machine) sum() (sum [32]byte) {
	m.ram(m.t, func(f *os.File, at int64) {
		b := make([]byte, machineSize-(1<<20)-(1<<20)) // the firmware works in the last MiB
		_, err := f.ReadAt(b, at)
		do(m.t, err)
		sum = sha256.Sum256(b)
	})
	return sum
}

// unharmed checks that the machine runs, and its memory.
func (m *machine) unharmed(t *testing.T) {
	t.Helper()
	m.runs()
	m.clean()
	if m.sum() != m.memory {
		t.Error("the guest's memory has changed")
	}
	before := m.ticks()
	for deadline := time.Now().Add(20 * time.Second); m.ticks() == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the guest's clock stands still")
		}
	}
}
