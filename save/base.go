// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/transfer"
)

// base is the base of a diff. A diff is an image that holds only the pages that are not as in another image, its base, which it names by
// id. A base is always whole: a diff of a diff is made against the latter's base, so that two files are all that a VM ever needs.
//
// Only memory backends are taken against the base. Firmware, video memory and the like, and what
// the base does not have or has in another size, are in the diff whole (seal.Block.Whole). So QEMU itself loads a diff over
// backends that it mapped from the base, with nothing between.
//
// A nil *base is the base of a whole image.
type base struct {
	file     *image.File
	verified bool // bitmaps and sums are as the seal says
	log      func(format string, args ...any)
}

// openBase opens the image at path, or its base if it is a diff itself, as the base of the diff that target will be; nil for no path.
func openBase(path, target string, calls *sys.Calls, log func(string, ...any)) (_ *base, err error) {
	if path == "" {
		return nil, nil
	}
	b := &base{log: log}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.file, err = image.OpenFile(path, calls); err != nil {
		return nil, err
	}
	if b.file.Seal == nil {
		return nil, fmt.Errorf("%s has no seal, by which a diff knows its base: add one with `ramjet seal %s`", path, path)
	}
	if diff := b.file; diff.BaseID() != nil {
		b.file, err = image.OpenBaseOf(diff, "")
		diff.Close()
		if err != nil {
			return nil, err
		}
		log("%s is a diff itself: this one will build on its base %s too", path, b.file.Path)
	}
	if b.file.Path, err = filepath.Abs(b.file.Path); err != nil {
		return nil, err
	}
	if st, err := os.Stat(target); err == nil {
		if own, err := b.file.Descriptor.Stat(); err == nil && os.SameFile(st, own) {
			return nil, fmt.Errorf("%s is the base itself: a diff that replaced it would be lost without it", target)
		}
	}
	return b, nil
}

func (b *base) close() {
	if b != nil && b.file != nil {
		b.file.Close()
	}
}

// check refuses what would make no sense for the VM.
func (b *base) check(engine Engine, vm *qemu.VM) error {
	switch {
	case b == nil:
		return nil
	case engine == EngineQEMU:
		return errors.New("only ramjet's own engine writes diffs: leave --base out, or --engine=qemu")
	case b.file.Config.MachineType != vm.MachineType:
		return fmt.Errorf("%s is of a machine %s, this VM is a %s: it is no base for a diff of it", b.file.Path, b.file.Config.MachineType, vm.MachineType)
	}
	return nil
}

// blocks decides for each block how it is saved: whole (nil), by what is no longer mapped from the base, or by sums.
func (b *base) blocks(ctx context.Context, vm *qemu.VM, l *mappedram.Layout, memory []guestmem.Memory) ([]*transfer.Base, error) {
	if b == nil {
		return nil, nil
	}
	all := make([]*transfer.Base, len(l.Blocks))
	backends, err := vm.MemoryBackends(ctx)
	if err != nil {
		return nil, err
	}
	sums := false
	for i, of := range l.Blocks {
		k := b.file.Index(of.Name)
		if k < 0 || !backends[of.Name] || b.file.Blocks[k].Length != of.Length || b.file.Blocks[k].Ignored {
			continue
		}
		stored, err := b.file.Bitmap(k)
		if err != nil {
			return nil, err
		}
		all[i] = &transfer.Base{Stored: stored}
		if b.maps(memory[i], b.file.Blocks[k]) {
			b.log("block %s: what is no longer mapped from the base", of.Name)
			continue
		}
		b.log("block %s: pages whose sums are not the base's", of.Name)
		all[i].Sums = func(first, n int) ([]uint64, error) { return b.file.Seal.Sums(k, first, n) }
		sums = true
	}
	if sums && !b.verified {
		// A wrong sum or bitmap would pass a changed page off as the base's.
		if err := b.file.VerifyStream(); err != nil {
			return nil, fmt.Errorf("%s: %w", b.file.Path, err)
		}
		b.verified = true
	}
	return all, nil
}

// maps reports whether memory is mapped from this block of the very file that the base is; a file that had its name before is another.
func (b *base) maps(m guestmem.Memory, block mappedram.Block) bool {
	c, ok := m.(guestmem.Changed)
	if !ok {
		return false
	}
	var st unix.Stat_t
	if unix.Fstat(int(b.file.Descriptor.Fd()), &st) != nil {
		return false
	}
	back := c.Backing()
	return back.Inode == st.Ino && back.Device == uint64(st.Dev) && back.Offset == block.PagesOffset
}
