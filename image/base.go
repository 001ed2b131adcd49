// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

// BaseID is the base that the image builds on; nil if the image is whole.
func (m *File) BaseID() *seal.Base {
	if m.Seal == nil {
		return nil
	}
	return m.Seal.Base
}

// OpenBaseOf opens the base of a diff: at the path given, else where it was when the diff was made or, if both were
// moved together, beside the diff.
func OpenBaseOf(diff *File, path string) (*File, error) {
	want := diff.BaseID()
	paths := []string{path}
	if path == "" {
		paths = []string{want.Path, filepath.Join(filepath.Dir(diff.Path), filepath.Base(want.Path))}
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

// openBaseAt opens the base of a diff at a path.
func openBaseAt(diff *File, want *seal.Base, path string) (*File, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s builds on the image %s, which is not at %s: say where it is with --base", diff.Path, shortID(want.ID), path)
	}
	base, err := OpenFile(path, diff.Calls)
	if err != nil {
		return nil, fmt.Errorf("the base of %s: %w", diff.Path, err)
	}
	if err := checkBaseOf(diff, base); err != nil {
		base.Close()
		return nil, err
	}
	return base, nil
}

// checkBaseOf checks that an image is the base that the diff names, and has the blocks that the diff needs of it.
func checkBaseOf(diff, base *File) error {
	want := diff.BaseID()
	switch {
	case base.Seal == nil:
		return fmt.Errorf("%s builds on the image %s, and %s is another: it has no seal (name the right one with --base)", diff.Path, shortID(want.ID), base.Path)
	case base.Seal.ID != want.ID:
		return fmt.Errorf("%s builds on the image %s, and %s is another, %s: it was replaced or changed (name the right one with --base)",
			diff.Path, shortID(want.ID), base.Path, shortID(base.Seal.ID))
	case base.BaseID() != nil:
		return fmt.Errorf("%w: its base %s builds on another image itself", mappedram.ErrDamaged, base.Path)
	}
	for i, b := range diff.Blocks {
		if diff.Seal.Blocks[i].Whole {
			continue
		}
		if j := base.Index(b.Name); j < 0 || base.Blocks[j].Length != b.Length || base.Blocks[j].Ignored {
			return fmt.Errorf("%w: its base %s has no block %s of %d bytes", mappedram.ErrDamaged, base.Path, b.Name, b.Length)
		}
	}
	return nil
}

// shortID is the beginning of an id, enough for people.
func shortID(id seal.ID) string { return id.String()[:12] }

// BuildsOnBase reports whether the pages of block i that are not stored are those of a base.
func (m *File) BuildsOnBase(i int) bool {
	return m.Seal != nil && m.Seal.Base != nil && !m.Seal.Blocks[i].Whole
}
