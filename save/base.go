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
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// A diff is an image that holds only the pages that are not as in another image, its base, which it names by id. A base
// is always whole: a diff of a diff is made against the latter's base, so that two files are all
// that a VM ever needs.
//
// Only memory backends are taken against the base. Firmware, video memory and the like, and what
// the base does not have or has in another size, are in the diff whole (seal.Block.Whole). So QEMU itself loads a diff over
// backends that it mapped from the base, with nothing between.

// openBase opens the image that a save is to be a diff of.
func (s *save) openBase() (err error) {
	if s.Base == "" {
		return nil
	}
	if s.base, err = image.OpenFile(s.Base); err != nil {
		return err
	}
	if s.base.Seal == nil {
		return fmt.Errorf("%s has no seal, by which a diff knows its base: add one with `ramjet seal %s`", s.Base, s.Base)
	}
	if s.base.BaseID() != nil {
		diff := s.base
		s.base, err = image.OpenBaseOf(diff, "")
		diff.Close()
		if err != nil {
			s.base = nil
			return err
		}
		s.log("%s is a diff itself: this one will build on its base %s too", s.Base, s.base.Path)
	}
	if s.base.Path, err = filepath.Abs(s.base.Path); err != nil {
		return err
	}
	if st, err := os.Stat(s.Image); err == nil {
		if b, err := s.base.Descriptor.Stat(); err == nil && os.SameFile(st, b) {
			return fmt.Errorf("%s is the base itself: a diff that replaced it would be lost without it", s.Image)
		}
	}
	return nil
}

// checkBase refuses what would make no sense for the VM.
func (s *save) checkBase() error {
	switch {
	case s.base == nil:
		return nil
	case s.Engine == EngineQEMU:
		return errors.New("only ramjet's own engine writes diffs: leave --base out, or --engine=qemu")
	case s.base.Config.MachineType != s.vm.MachineType:
		return fmt.Errorf("%s is of a machine %s, this VM is a %s: it is no base for a diff of it", s.base.Path, s.base.Config.MachineType, s.vm.MachineType)
	}
	return nil
}

// findBases decides for each block how it is taken: whole, by what is no longer mapped from the base, or by sums.
func (n *native) findBases(ctx context.Context) error {
	n.bases = make([]*transfer.Base, len(n.blocks))
	if n.base == nil {
		return nil
	}
	backends, err := n.vm.MemoryBackends(ctx)
	if err != nil {
		return err
	}
	sums := false
	for i, b := range n.layout.Blocks {
		j := n.base.Index(b.Name)
		if j < 0 || !backends[b.Name] || n.base.Blocks[j].Length != b.Length || n.base.Blocks[j].Ignored {
			continue
		}
		stored, err := n.base.Bitmap(j)
		if err != nil {
			return err
		}
		n.bases[i] = &transfer.Base{Stored: stored}
		if n.mappedFrom(n.memory[i], n.base.Blocks[j]) {
			n.log("block %s: what is no longer mapped from the base", b.Name)
			continue
		}
		n.log("block %s: pages whose sums are not the base's", b.Name)
		n.bases[i].Sums = func(first, k int) ([]uint64, error) { return n.base.Seal.Sums(j, first, k) }
		sums = true
	}
	if sums && !n.verified {
		// A wrong sum or bitmap would pass a changed page off as the base's.
		if err := n.base.VerifyStream(); err != nil {
			return fmt.Errorf("%s: %w", n.base.Path, err)
		}
		n.verified = true
	}
	return nil
}

// mappedFrom tells whether memory is mapped from this block of the very file that the base is; not from one that
// had its name before.
func (n *native) mappedFrom(m guestmem.Memory, b mappedram.Block) bool {
	c, ok := m.(guestmem.Changed)
	if !ok {
		return false
	}
	var st unix.Stat_t
	if unix.Fstat(int(n.base.Descriptor.Fd()), &st) != nil {
		return false
	}
	back := c.Backing()
	return back.Inode == st.Ino && back.Device == uint64(st.Dev) && back.Offset == b.PagesOffset
}
