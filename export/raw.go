// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// writeBlock writes the block Options.Block into one file.
func writeBlock(ctx context.Context, e *export) error {
	i := e.image.Index(e.o.Block)
	if i < 0 || e.image.Blocks[i].Ignored {
		return fmt.Errorf("%s has no memory %q (ramjet inspect lists its blocks)", e.o.Image, e.o.Block)
	}
	for k, b := range e.image.Blocks {
		if k != i {
			e.result.LeftOut = append(e.result.LeftOut, b.Name)
		}
	}
	return writeMemory(ctx, e, i, e.o.Out)
}

// writeMemory writes the memory of block i into a file.
func writeMemory(ctx context.Context, e *export, i int, path string) error {
	b := e.image.Blocks[i]
	return e.file(path, b.Name, b.Length, func(f *directio.File) error {
		return e.eachPage(ctx, []int{i}, func(_ int, off int64, p []byte) error {
			_, err := f.WriteAt(p, off)
			return err
		})
	})
}

// writeRaw writes everything into a directory, the manifest last.
func writeRaw(ctx context.Context, e *export) error {
	if e.o.Block != "" {
		return writeBlock(ctx, e)
	}
	if err := makeDirectory(e.o.Out, e.o.Force); err != nil {
		return err
	}
	m, err := newManifest(e.image)
	if err != nil {
		return err
	}
	for i, b := range e.image.Blocks {
		if b.Ignored {
			e.result.LeftOut = append(e.result.LeftOut, b.Name)
			continue
		}
		name := fileName(b.Name, m.Blocks)
		m.Blocks = append(m.Blocks, ManifestBlock{b.Name, b.Length, name})
		if err := writeMemory(ctx, e, i, filepath.Join(e.o.Out, name)); err != nil {
			return err
		}
	}
	return writeRest(e, m)
}

// writeRest writes the device state and the manifest.
func writeRest(e *export, m *Manifest) error {
	sections, err := e.image.DeviceSections()
	if err != nil {
		return err
	}
	magic := vmstate.Magic()
	if err := writeSmall(e, deviceStateName, append(append(magic[:], sections...), vmstate.TypeEOF)); err != nil {
		return err
	}
	description, err := e.image.Description()
	if err != nil {
		return err
	}
	if description != nil {
		m.Description = descriptionName
		if err := writeSmall(e, descriptionName, description); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeSmall(e, manifestName, append(text, '\n'))
}

// writeSmall writes a file into the directory.
func writeSmall(e *export, name string, content []byte) error {
	return e.file(filepath.Join(e.o.Out, name), "", int64(len(content)), func(f *directio.File) error {
		_, err := f.WriteAt(content, 0)
		return err
	})
}

// makeDirectory makes a directory, or takes one that is there: without force only if it is empty.
func makeDirectory(path string, force bool) error {
	err := os.Mkdir(path, 0o700)
	if err == nil || !errors.Is(err, os.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("%s exists and is no directory, which an export of several blocks needs (--block exports one into a file)", path)
	}
	if len(entries) > 0 && !force {
		return fmt.Errorf("%s exists and is not empty: name another directory, or add to it with --force", path)
	}
	return nil
}

// fileName makes a file's name of a block's, different from those taken: slashes and other awkward characters become underscores.
func fileName(block string, taken []ManifestBlock) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-@:+", r) {
			return r
		}
		return '_'
	}, block)
	if name = strings.TrimLeft(name, "._-"); name == "" {
		name = "block"
	}
	unique := name + ".raw"
	for n := 2; ; n++ {
		free := true
		for _, t := range taken {
			free = free && t.File != unique
		}
		if free {
			return unique
		}
		unique = fmt.Sprintf("%s-%d.raw", name, n)
	}
}
