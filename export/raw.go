// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Manifest is the file image.json of a directory that Export wrote, or somebody else for Import: raw memory and device
// state with what has to be known to make an image of them. File names are relative to the directory and inside it.
type Manifest struct {
	FormatVersion int             `json:"format_version"` // 1
	Machine       string          `json:"machine"`        // QEMU's machine type, versioned: "pc-q35-10.0"
	Blocks        []ManifestBlock `json:"blocks"`         // in QEMU's order
	// DeviceState is what QEMU's command xen-save-devices-state writes: "QEVM", version, sections, end.
	DeviceState string `json:"device_state"`
	// Description is QEMU's own of the device state, JSON; "" if there is none.
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created"`
	QEMUVersion string    `json:"qemu_version,omitempty"`
	WasRunning  bool      `json:"was_running"`
	// How the VM was started, if that is known.
	CommandLine []string `json:"command_line,omitempty"`
	Cwd         string   `json:"cwd,omitempty"`
	Executable  string   `json:"executable,omitempty"`
	// Differs and Disks are those of seal.Metadata.
	Differs []string    `json:"differs,omitempty"`
	Disks   []seal.Disk `json:"disks,omitempty"`
	// NotUTF8 are those of these texts that JSON cannot hold, by their places (seal.Texts).
	NotUTF8 map[string][]byte `json:"not_utf8,omitempty"`
}

// texts are the paths and arguments that may not be UTF-8.
func (m *Manifest) texts() seal.Texts {
	t := seal.Texts{"/cwd": &m.Cwd, "/executable": &m.Executable}
	t.List("/command_line", m.CommandLine)
	for i := range m.Disks {
		t["/disks/"+strconv.Itoa(i)+"/file"] = &m.Disks[i].File
	}
	return t
}

// ManifestBlock is one block of memory.
type ManifestBlock struct {
	Name   string `json:"name"` // QEMU's, "pc.ram"
	Length int64  `json:"length"`
	File   string `json:"file"` // its bytes, exactly so many
}

const (
	manifestName    = "image.json"
	manifestVersion = 1
	deviceStateName = "device-state"
	descriptionName = "description.json"
)

// oneBlock writes one block into one file.
func (e *export) oneBlock(ctx context.Context) error {
	i := e.image.Index(e.Block)
	if i < 0 || e.image.Blocks[i].Ignored {
		return fmt.Errorf("%s has no memory %q (ramjet inspect lists its blocks)", e.Image, e.Block)
	}
	for k, b := range e.image.Blocks {
		if k != i {
			e.result.LeftOut = append(e.result.LeftOut, b.Name)
		}
	}
	return e.block(ctx, i, e.Out)
}

func (e *export) block(ctx context.Context, i int, path string) error {
	b := e.image.Blocks[i]
	return e.file(path, b.Name, b.Length, func(f *directio.File) error {
		return e.copy(ctx, []int{i}, func(_ int, off int64, p []byte) error {
			_, err := f.WriteAt(p, off)
			return err
		})
	})
}

// raw writes everything into a directory, image.json last.
func (e *export) raw(ctx context.Context) error {
	if err := e.directory(); err != nil {
		return err
	}
	m, err := e.manifest()
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
		if err := e.block(ctx, i, filepath.Join(e.Out, name)); err != nil {
			return err
		}
	}
	return e.restOf(m)
}

// restOf writes the device state and the manifest.
func (e *export) restOf(m *Manifest) error {
	sections, err := e.image.DeviceSections()
	if err != nil {
		return err
	}
	magic := vmstate.Magic()
	if err := e.small(deviceStateName, append(append(magic[:], sections...), vmstate.TypeEOF)); err != nil {
		return err
	}
	description, err := e.image.Description()
	if err != nil {
		return err
	}
	if description != nil {
		m.Description = descriptionName
		if err := e.small(descriptionName, description); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return e.small(manifestName, append(text, '\n'))
}

// small writes a small file into the directory.
func (e *export) small(name string, content []byte) error {
	return e.file(filepath.Join(e.Out, name), "", int64(len(content)), func(f *directio.File) error {
		_, err := f.WriteAt(content, 0)
		return err
	})
}

// directory makes the directory Out.
func (e *export) directory() error {
	err := os.Mkdir(e.Out, 0o700)
	if err == nil || !errors.Is(err, os.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(e.Out)
	if err != nil {
		return fmt.Errorf("%s exists and is no directory, which an export of several blocks needs (--block exports one into a file)", e.Out)
	}
	if len(entries) > 0 && !e.Force {
		return fmt.Errorf("%s %w", e.Out, errNotEmpty)
	}
	return nil
}

// manifest is what the image says besides its memory.
func (e *export) manifest() (*Manifest, error) {
	if len(e.image.Early)+len(e.image.Setup) > 0 {
		return nil, fmt.Errorf("%s has devices that load before its memory (virtio-mem), which cannot be exported together: export single blocks with --block", e.Image)
	}
	m := &Manifest{FormatVersion: manifestVersion, Machine: e.image.Config.MachineType, DeviceState: deviceStateName}
	if s := e.image.Seal; s != nil {
		m.Created, m.QEMUVersion, m.WasRunning = s.Created, s.QEMUVersion, s.WasRunning
		m.CommandLine, m.Cwd, m.Executable = s.CommandLine, s.Cwd, s.Executable
		m.Differs, m.Disks = s.Differs, s.Disks
		m.NotUTF8 = m.texts().Exact()
	}
	return m, nil
}

// fileName makes a file's name of a block's: slashes and what else is awkward become underscores.
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
