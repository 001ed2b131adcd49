// SPDX-License-Identifier: Apache-2.0

package export

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/seal"
)

// Manifest is the file image.json in a directory of raw memory and device state, which Export writes and Import reads. It has all that is
// needed to make an image of the other files. File names are relative to the directory, and name files inside it.
type Manifest struct {
	FormatVersion int             `json:"format_version"` // 1
	Machine       string          `json:"machine"`        // QEMU's machine type, versioned: "pc-q35-10.0"
	Blocks        []ManifestBlock `json:"blocks"`         // in QEMU's order
	// DeviceState is what QEMU's command xen-save-devices-state writes: "QEVM", version, sections, end.
	DeviceState string `json:"device_state"`
	// Description is QEMU's own description of the device state, in JSON; "" if there is none.
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
	// NotUTF8 has those of the texts above that JSON cannot hold, by their places (seal.Texts).
	NotUTF8 map[string][]byte `json:"not_utf8,omitempty"`
}

// texts are the paths and arguments, which need not be UTF-8.
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

// newManifest is the manifest of an image, still without blocks.
func newManifest(img *image.Image) (*Manifest, error) {
	if len(img.Early)+len(img.Setup) > 0 {
		return nil, fmt.Errorf("%s has devices that load before its memory (virtio-mem), which cannot be exported together: export single blocks with --block", img.Path)
	}
	m := &Manifest{FormatVersion: manifestVersion, Machine: img.Config.MachineType, DeviceState: deviceStateName}
	if s := img.Seal; s != nil {
		m.Created, m.QEMUVersion, m.WasRunning = s.Created, s.QEMUVersion, s.WasRunning
		m.CommandLine, m.Cwd, m.Executable = s.CommandLine, s.Cwd, s.Executable
		m.Differs, m.Disks = s.Differs, s.Disks
		m.NotUTF8 = m.texts().Exact()
	}
	return m, nil
}

// metadata is the metadata for the seal of an image that is made of the manifest's files. dropped: the manifest has a command line, and
// the image does not.
func (m *Manifest) metadata(keepCommandLine bool) (s *seal.Metadata, dropped bool) {
	s = &seal.Metadata{
		Created: m.Created, Format: "ramjet", RamjetVersion: image.VersionString(), QEMUVersion: m.QEMUVersion, MachineType: m.Machine,
		WasRunning: m.WasRunning,
	}
	if s.Created.IsZero() {
		s.Created = time.Now().UTC()
	}
	if len(m.CommandLine) == 0 && m.Executable == "" {
		return s, false
	}
	if !keepCommandLine {
		return s, true
	}
	user := uint32(os.Geteuid()) // who has the command line kept vouches for it
	s.CommandLine, s.Cwd, s.Executable, s.CommandLineUser = m.CommandLine, m.Cwd, m.Executable, &user
	s.Differs, s.Disks = m.Differs, m.Disks
	return s, false
}
