// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Metadata is what the seal records about its image. Fields that a reader does not know it ignores.
type Metadata struct {
	// FormatVersion is the version of the metadata; NewWriter sets it to MetadataVersion.
	FormatVersion int       `json:"format_version"`
	Created       time.Time `json:"created"`
	// Format says who wrote the image: "ramjet", "qemu" or "libvirt".
	Format        string `json:"format"`
	RamjetVersion string `json:"ramjet_version,omitempty"`
	QEMUVersion   string `json:"qemu_version,omitempty"` // as QEMU says it, "10.0.2"
	MachineType   string `json:"machine_type,omitempty"` // versioned, "pc-q35-10.0"

	// StreamOffset is where the stream begins in the file; what is before it is not sealed.
	StreamOffset int64 `json:"stream_offset"`
	// StreamHash is SHA-256 over the stream without its pages, in hexadecimal digits (see package mappedram).
	StreamHash Hash `json:"stream_sha256"`
	// Blocks are the blocks of memory in the stream's order.
	Blocks []Block `json:"blocks"`

	// CommandLine started the VM; secrets in it are blanked. Empty if it was not to be recorded.
	CommandLine []string `json:"command_line,omitempty"`
	Cwd         string   `json:"cwd,omitempty"`        // the directory it was started in
	Executable  string   `json:"executable,omitempty"` // the QEMU program's path
	// CommandLineUser is the user whose process was started so, and so who could write it; nil if that is not known.
	CommandLineUser *uint32 `json:"command_line_user,omitempty"`
	// Differs says, half a sentence each, what of the VM was not as CommandLine says when it was saved.
	Differs []string `json:"differs,omitempty"`
	// Disks are those that the VM could write to.
	Disks      []Disk `json:"disks,omitempty"`
	WasRunning bool   `json:"was_running"` // whether the VM ran before the save

	// Base names the image to which this one is a diff; nil if this one is whole.
	Base *Base `json:"base,omitempty"`
	// Hot are the parts of memory that the VM had needed last; nil if that is not known.
	Hot []Hot `json:"hot,omitempty"`
	// MemoryDevices is what has to be known of hot-plugged memory to start the VM again. This package passes it on.
	MemoryDevices json.RawMessage `json:"memory_devices,omitempty"`
}

// MetadataVersion is the version of the metadata that this package writes, and the highest that it reads.
const MetadataVersion = 1

// Block is one block of guest memory.
type Block struct {
	Name        string `json:"name"`         // 1 to 255 bytes, no two alike
	Length      int64  `json:"length"`       // bytes, a multiple of PageSize
	PageSize    int64  `json:"page_size"`    // bytes
	PagesStored int64  `json:"pages_stored"` // pages whose bit is set
	// Whole says, in a diff, that the block does not build on the base: what is not stored of it is zero.
	Whole bool `json:"whole,omitempty"`
}

// Disk is a disk of the VM, as it was when the guest stood still.
type Disk struct {
	Device string `json:"device"`         // the id of a -drive, or the device's id or QOM path
	File   string `json:"file,omitempty"` // the image that was written to, absolute; empty if it was no file
	Size   int64  `json:"size"`           // as the guest sees it, in bytes
	// Written is when the file was written last; nil if that is not known.
	Written *time.Time `json:"written,omitempty"`
}

// Base names the image that a diff builds on.
type Base struct {
	ID   ID     `json:"id"`
	Path string `json:"path"` // where it was when the diff was made
}

// Hot says which parts of a block were needed last: a bit for each MiB, lowest first (bit i%8 of byte i/8). It only tells what
// to read first.
type Hot struct {
	Block string `json:"block"`
	Units []byte `json:"units"`
}

// Hash is a SHA-256 in JSON as hexadecimal digits.
type Hash = ID

// TotalStored is the number of pages stored in all blocks, and so the number of sums.
func (m *Metadata) TotalStored() int64 {
	var n int64
	for _, b := range m.Blocks {
		n += b.PagesStored
	}
	return n
}

// UnmarshalJSON reads the object with its lists bounded: 8 MiB of text could otherwise become a list many times as
// large in memory.
func (m *Metadata) UnmarshalJSON(text []byte) error {
	type plain Metadata
	aux := struct {
		*plain
		Blocks      json.RawMessage   `json:"blocks"`
		Hot         json.RawMessage   `json:"hot"`
		CommandLine json.RawMessage   `json:"command_line"`
		Differs     json.RawMessage   `json:"differs"`
		Disks       json.RawMessage   `json:"disks"`
		NotUTF8     map[string][]byte `json:"not_utf8"`
	}{plain: (*plain)(m)}
	err := json.Unmarshal(text, &aux)
	if err != nil {
		return err
	}
	if m.Blocks, err = list[Block](aux.Blocks, MaxBlocks); err != nil {
		return fmt.Errorf("blocks: %w", err)
	}
	if m.Hot, err = list[Hot](aux.Hot, MaxBlocks); err != nil {
		return fmt.Errorf("hot: %w", err)
	}
	if m.CommandLine, err = list[string](aux.CommandLine, MaxArguments); err != nil {
		return fmt.Errorf("command_line: %w", err)
	}
	if m.Differs, err = list[string](aux.Differs, MaxBlocks); err != nil {
		return fmt.Errorf("differs: %w", err)
	}
	if m.Disks, err = list[Disk](aux.Disks, MaxBlocks); err != nil {
		return fmt.Errorf("disks: %w", err)
	}
	return m.texts().Restore(aux.NotUTF8)
}

// list reads a JSON array of at most limit elements. No text at all is an empty one.
func list[T any](text json.RawMessage, limit int) ([]T, error) {
	if len(text) == 0 || bytes.Equal(text, []byte("null")) {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.New("not a list")
	}
	var l []T
	for d.More() {
		if len(l) == limit {
			return nil, fmt.Errorf("more than %d entries", limit)
		}
		var v T
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		l = append(l, v)
	}
	return l, nil
}

// check bounds every number, so that sums and products of them cannot overflow.
func (m *Metadata) check() error {
	if m.StreamOffset < 0 {
		return fmt.Errorf("stream_offset is %d", m.StreamOffset)
	}
	if len(m.Blocks) > MaxBlocks {
		return fmt.Errorf("%d blocks of memory, more than %d", len(m.Blocks), MaxBlocks)
	}
	if len(m.CommandLine) > MaxArguments {
		return fmt.Errorf("%d arguments on the command line, more than %d", len(m.CommandLine), MaxArguments)
	}
	if len(m.Hot) > MaxBlocks {
		return fmt.Errorf("hot: more than %d blocks", MaxBlocks)
	}
	if len(m.Differs) > MaxBlocks || len(m.Disks) > MaxBlocks {
		return fmt.Errorf("more than %d disks, or differences", MaxBlocks)
	}
	names := make(map[string]bool, len(m.Blocks))
	for _, b := range m.Blocks {
		switch {
		case b.Name == "" || len(b.Name) > 255:
			return fmt.Errorf("a block's name has %d bytes", len(b.Name))
		case names[b.Name]:
			return fmt.Errorf("two blocks have the name %q", b.Name)
		case b.PageSize < 512 || b.PageSize > 1<<30 || b.PageSize&(b.PageSize-1) != 0:
			return fmt.Errorf("block %q has pages of %d bytes", b.Name, b.PageSize)
		case b.Length < 0 || b.Length > 1<<50 || b.Length%b.PageSize != 0:
			return fmt.Errorf("block %q has %d bytes", b.Name, b.Length)
		case b.PagesStored < 0 || b.PagesStored > b.Length/b.PageSize:
			return fmt.Errorf("block %q has %d stored pages of %d", b.Name, b.PagesStored, b.Length/b.PageSize)
		}
		names[b.Name] = true
	}
	return nil
}
