// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/seal"
)

// A diff is an image that holds only the pages that are not as in another image, its base, which it names by id. A base
// is always whole: a diff of a diff is made against the latter's base, so that two files are all
// that a VM ever needs.
//
// Only memory backends are taken against the base. Firmware, video memory and the like, and what
// the base does not have or has in another size, are in the diff whole (seal.Block.Whole). So QEMU itself loads a diff over
// backends that it mapped from the base, with nothing between.

// baseID returns what the image says of its base; nil if it is whole.
func (m *openedImage) baseID() *seal.Base {
	if m.Seal == nil {
		return nil
	}
	return m.Seal.Base
}

// openBaseOf opens the base of a diff: at the path given, else where it was when the diff was made or, if both were
// moved together, beside the diff.
func openBaseOf(diff *openedImage, path string) (*openedImage, error) {
	want := diff.baseID()
	paths := []string{path}
	if path == "" {
		paths = []string{want.Path, filepath.Join(filepath.Dir(diff.path), filepath.Base(want.Path))}
	}
	var first error
	for _, p := range paths {
		base, err := openBaseAt(diff, want, p)
		if err == nil {
			return base, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func openBaseAt(diff *openedImage, want *seal.Base, path string) (*openedImage, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s builds on the image %s, which is not at %s: say where it is with --base", diff.path, short(want.ID), path)
	}
	base, err := openImage(path)
	if err != nil {
		return nil, fmt.Errorf("the base of %s: %w", diff.path, err)
	}
	if err := checkBaseOf(diff, base); err != nil {
		base.file.Close()
		return nil, err
	}
	return base, nil
}

// checkBaseOf checks that an image is the base that the diff names, by what both say.
func checkBaseOf(diff, base *openedImage) error {
	want := diff.baseID()
	switch {
	case base.Seal == nil:
		return fmt.Errorf("%s builds on the image %s, and %s is another: it has no seal (name the right one with --base)", diff.path, short(want.ID), base.path)
	case base.Seal.ID != want.ID:
		return fmt.Errorf("%s builds on the image %s, and %s is another, %s: it was replaced or changed (name the right one with --base)",
			diff.path, short(want.ID), base.path, short(base.Seal.ID))
	case base.baseID() != nil:
		return fmt.Errorf("%w: its base %s builds on another image itself", mappedram.ErrDamaged, base.path)
	}
	for i, b := range diff.Blocks {
		if diff.Seal.Blocks[i].Whole {
			continue
		}
		if j := base.Index(b.Name); j < 0 || base.Blocks[j].Length != b.Length || base.Blocks[j].Ignored {
			return fmt.Errorf("%w: its base %s has no block %s of %d bytes", mappedram.ErrDamaged, base.path, b.Name, b.Length)
		}
	}
	return nil
}

// short is enough of an id for people.
func short(id seal.ID) string { return id.String()[:12] }

// openBase opens the image that a save is to be a diff of.
func (s *save) openBase() (err error) {
	if s.Base == "" {
		return nil
	}
	if s.base, err = openImage(s.Base); err != nil {
		return err
	}
	if s.base.Seal == nil {
		return fmt.Errorf("%s has no seal, by which a diff knows its base: add one with `ramjet seal %s`", s.Base, s.Base)
	}
	if s.base.baseID() != nil {
		diff := s.base
		s.base, err = openBaseOf(diff, "")
		diff.file.Close()
		if err != nil {
			s.base = nil
			return err
		}
		s.log("%s is a diff itself: this one will build on its base %s too", s.Base, s.base.path)
	}
	if s.base.path, err = filepath.Abs(s.base.path); err != nil {
		return err
	}
	if st, err := os.Stat(s.Image); err == nil {
		if b, err := s.base.file.Stat(); err == nil && os.SameFile(st, b) {
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
		return fmt.Errorf("%s is of a machine %s, this VM is a %s: it is no base for a diff of it", s.base.path, s.base.Config.MachineType, s.vm.MachineType)
	}
	return nil
}

// findBases decides for each block how it is taken: whole, by what is no longer mapped from the base, or by sums.
func (n *native) findBases(ctx context.Context) error {
	n.bases = make([]*migration.Base, len(n.blocks))
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
		n.bases[i] = &migration.Base{Stored: stored}
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
			return fmt.Errorf("%s: %w", n.base.path, err)
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
	if unix.Fstat(int(n.base.file.Fd()), &st) != nil {
		return false
	}
	back := c.Backing()
	return back.Inode == st.Ino && back.Device == uint64(st.Dev) && back.Offset == b.PagesOffset
}
