// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// kind is one kind of VM. Its memory is filled from outside and its firmware may run, so it needs no operating system.
type kind struct {
	name string
	// args are QEMU's arguments, separated by blanks; DIR is the VM's own directory, which is its working directory too.
	args  string
	short bool // within `make test`; the others only in `make soak`
	runs  bool // the firmware runs when the VM is saved; else the VM was started with -S
	// prepare makes what the VM needs beside it. It may skip the test, or change the arguments.
	prepare func(t *testing.T, v *anyVM)
	// hotplug changes the VM after its start.
	hotplug func(t *testing.T, m *qmp.Client)
	// given restores with the arguments after -- only, because the recorded command line cannot be used. If recorded is a
	// sentence, a restore without arguments is refused with it.
	given    bool
	recorded string
	// Where one of these cannot be, the words that its error holds.
	save, instant, eager string
}

// anyVM is a VM of a kind.
type anyVM struct {
	dir, qmp string
	wrapper  []string // before QEMU
	args     []string
	files    []*os.File // inherited from descriptor 3 on
	blocks   map[string][32]byte
	// elsewhere: QEMU has another root directory, so that what is recorded of it means nothing here.
	elsewhere bool
}

// TestAnyVM saves each kind of VM, verifies the image and restores it in both modes, comparing all of its memory; or finds the one
// sentence that says why not.
func TestAnyVM(t *testing.T) {
	vm.Need(t)
	all := vm.Long()
	for _, k := range kinds {
		if k.short || all {
			t.Run(k.name, k.test)
		}
	}
}

func (k kind) test(t *testing.T) {
	v := &anyVM{dir: directory(t)}
	v.qmp = filepath.Join(v.dir, "qmp")
	v.args = k.arguments(v.dir)
	if k.prepare != nil {
		k.prepare(t, v)
	}
	needMachine(t, v.args)
	m := v.start(t)
	if k.hotplug != nil {
		k.hotplug(t, m)
	}
	fillBlocks(t, m)
	m.Close()

	img := filepath.Join(directory(t), "image")
	if k.save != "" {
		refused(t, 1, []string{k.save}, "save", "--qmp", v.qmp, "--then", "stay", img)
		v.quit(t)
		return
	}
	must[save.Result](t, "save", "--qmp", v.qmp, "--then", "stay", img)
	m = dialAny(t, v.qmp)
	v.blocks = sumBlocks(t, m)
	m.Close()
	v.quit(t)
	must[image.VerifyResult](t, "verify", img)
	if k.recorded != "" && !v.elsewhere {
		refused(t, 1, []string{k.recorded}, "restore", "--detach", img)
	}
	k.restore(t, v, img, "instant", k.instant)
	k.restore(t, v, img, "eager", k.eager)
}

// arguments are those of QEMU: the kind's own and what they leave out.
func (k kind) arguments(dir string) []string {
	args := strings.Fields(strings.ReplaceAll(k.args, "DIR", dir))
	has := func(name string) bool { return slices.Contains(args, "-"+name) }
	if !has("m") {
		args = append(args, "-m", "32M")
	}
	if !has("display") {
		args = append(args, "-display", "none")
	}
	if !has("qmp") && !has("qmp-pretty") && !has("mon") && !has("readconfig") {
		args = append(args, "-qmp", "unix:"+dir+"/qmp,server=on,wait=off")
	}
	if !k.runs {
		args = append(args, "-S")
	}
	return append(args, "-accel", vm.Accelerator(), "-nodefaults")
}

// start starts the VM and returns when its monitor answers.
func (v *anyVM) start(t *testing.T) *qmp.Client {
	t.Helper()
	words := append(slices.Clone(v.wrapper), append([]string{vm.Program()}, v.args...)...)
	var out bytes.Buffer
	c := exec.Command(words[0], words[1:]...)
	c.Dir, c.Stdout, c.Stderr, c.ExtraFiles = v.dir, &out, &out, v.files
	do(t, c.Start())
	ended := make(chan struct{})
	go func() { c.Wait(); close(ended) }()
	daemon := slices.Contains(v.args, "-daemonize")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		m, err := qmp.Dial(t.Context(), v.qmp)
		if err == nil {
			pid, err := m.PeerPID()
			do(t, err)
			t.Cleanup(func() { kill(pid) })
			root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
			v.elsewhere = err != nil || root != "/"
			return m
		}
		select {
		case <-ended:
			if !daemon {
				t.Fatalf("QEMU ended: %s", &out)
			}
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("QEMU has no monitor: %v, it says %s", err, &out)
		}
	}
}

// quit ends the VM.
func (v *anyVM) quit(t *testing.T) {
	t.Helper()
	m := dialAny(t, v.qmp)
	pid, err := m.PeerPID()
	do(t, err)
	_ = m.Execute(t.Context(), "quit", nil, nil)
	m.Close()
	for deadline := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); bytes.Contains(stat, []byte(") Z ")) {
			break // a daemon whose parent does not wait for it
		}
		if time.Now().After(deadline) {
			t.Fatal("QEMU does not end")
		}
	}
}

func dialAny(t *testing.T, path string) *qmp.Client {
	t.Helper()
	m, err := qmp.Dial(t.Context(), path)
	do(t, err)
	return m
}

// restore brings the VM back paused, compares its memory, and has it run if it ran.
func (k kind) restore(t *testing.T, v *anyVM, image, mode, sentence string) {
	t.Helper()
	if k.prepare != nil {
		k.prepare(t, &anyVM{dir: v.dir, qmp: v.qmp}) // the TPM of a VM that has ended has ended too
	}
	args := []string{"restore", "--detach", "--paused", "--json", "--mode", mode, image}
	dir := "/" // that which is recorded counts
	if k.given || mode == "eager" || v.elsewhere {
		args = append(append(args, "--"), v.wrapper...)
		args = append(append(args, vm.Program()), v.args...)
		dir = v.dir
	}
	c := exec.Command(program, args...)
	c.Dir = dir
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	said := strings.TrimSpace(stderr.String())
	switch {
	case sentence != "":
		if err == nil || !strings.Contains(said, sentence) || strings.Count(said, "\n") != 0 {
			t.Errorf("%s restore: says %q, want one line with %q", mode, said, sentence)
		}
		if err != nil {
			return
		}
	case err != nil:
		t.Errorf("%s restore: %v, says %q\n%s", mode, err, said, strings.Join(args, " "))
		return
	}
	_ = out
	m := dialAny(t, v.qmp)
	defer v.quit(t)
	defer m.Close()
	pid, err := m.PeerPID()
	do(t, err)
	t.Cleanup(func() { kill(pid) })
	compareSums(t, mode, v.blocks, sumBlocks(t, m))
	if k.runs {
		do(t, m.Execute(t.Context(), "cont", nil, nil))
		var s struct{ Status string }
		do(t, m.Execute(t.Context(), "query-status", nil, &s))
		if s.Status != "running" {
			t.Errorf("%s restore: the VM is %s after cont", mode, s.Status)
		}
	}
}

func compareSums(t *testing.T, mode string, want, got map[string][32]byte) {
	t.Helper()
	if a, b := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)); !slices.Equal(a, b) {
		t.Errorf("%s restore: memory %q, it was %q", mode, b, a)
	}
	for name, sum := range want {
		if got[name] != sum {
			t.Errorf("%s restore: the memory %s is not as it was", mode, name)
		}
	}
}

// fillBlocks writes to all large RAM blocks: near their ends, where no firmware writes. A device's own memory (with a / in its name) is left as
// it is: virtio-mem has none that is in use here.
func fillBlocks(t *testing.T, m *qmp.Client) {
	t.Helper()
	eachBlock(t, m, func(mem *os.File, b qemu.RAMBlock) {
		name := strings.TrimPrefix(b.Name, "/objects/")
		if b.Used < 8<<20 || strings.Contains(name, "/") || !strings.Contains(name, "ram") && !strings.Contains(name, "mem") {
			return
		}
		for _, at := range []int64{b.Used / 2, b.Used - 64<<10, b.Used - 4096} {
			page := bytes.Repeat([]byte(fmt.Sprintf("%s %x ", b.Name, at)), 4096)[:4096]
			if _, err := mem.WriteAt(page, int64(b.Addr)+at); err != nil {
				t.Fatalf("cannot write to %s: %v", b.Name, err)
			}
		}
	})
}

// sumBlocks reads all of a VM's memory.
func sumBlocks(t *testing.T, m *qmp.Client) map[string][32]byte {
	t.Helper()
	sums := map[string][32]byte{}
	eachBlock(t, m, func(mem *os.File, b qemu.RAMBlock) {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(mem, int64(b.Addr), b.Used)); err != nil {
			t.Fatalf("cannot read %s: %v", b.Name, err)
		}
		sums[b.Name] = [32]byte(h.Sum(nil))
	})
	return sums
}

func eachBlock(t *testing.T, m *qmp.Client, do func(mem *os.File, b qemu.RAMBlock)) {
	t.Helper()
	pid, err := m.PeerPID()
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := qemu.QueryRAMBlocks(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for _, b := range blocks {
		do(mem, b)
	}
}

// machineTypes are those that the QEMU under test has.
var machineTypes = sync.OnceValue(func() map[string]bool {
	out, _ := exec.CommandContext(context.Background(), vm.Program(), "-machine", "help").Output()
	types := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 {
			types[f[0]] = true
		}
	}
	return types
})

// needMachine skips a machine type that this QEMU does not have, or not any more.
func needMachine(t *testing.T, args []string) {
	t.Helper()
	if i := slices.Index(args, "-machine"); i >= 0 {
		if name, _, _ := strings.Cut(args[i+1], ","); !strings.Contains(name, "=") && !machineTypes()[name] {
			t.Skipf("this QEMU has no machine type %s", name)
		}
	}
}
