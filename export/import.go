// SPDX-License-Identifier: Apache-2.0

package export

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// ImportOptions are what Import can be told. Dir and Image are required.
type ImportOptions struct {
	Dir      string    // where the manifest image.json is; with Identities the encrypted file
	From     io.Reader // with Identities: the encrypted file, if it has no name; Dir is then only what messages call it
	Image    string    // to be made
	Force    bool      // replace an existing image
	Channels int       // 1 to 255; 0: chosen
	Direct   directio.Mode

	Identities []age.Identity // keys, one of which decrypts Dir

	// KeepCommandLine has the image say how its VM was started, if what is imported does. A restore runs that, so it is for what the
	// user knows the origin of.
	KeepCommandLine bool

	Progress *image.Progress
}

// ImportResult is what `ramjet import --json` prints. Sizes are in bytes.
type ImportResult struct {
	Image       string  `json:"image"`
	ID          string  `json:"id"` // "" if it has no seal
	PagesTotal  int64   `json:"pages_total"`
	PagesStored int64   `json:"pages_stored"`
	BytesStored int64   `json:"bytes_stored"`
	Seconds     float64 `json:"seconds"`
	// DroppedCommandLine: how the VM was started was known, and is not in the image.
	DroppedCommandLine bool `json:"dropped_command_line"`
}

// Importing is one Import under way.
type Importing struct {
	ImportOptions
	Manifest              Manifest
	sections, description []byte
	Memory                []guestmem.Memory
	Layout                *mappedram.Layout
	target                *image.Target
	Result                *ImportResult
}

// Import makes an image of raw memory and device state, as a Manifest describes them: what Export wrote, or what came
// from elsewhere, with pmemsave and xen-save-devices-state of QEMU for example; or of a file that Export encrypted. Nothing is at Image
// unless all of it is.
func Import(ctx context.Context, o ImportOptions) (*ImportResult, error) {
	began := time.Now()
	if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
		return nil, err
	}
	i := &Importing{ImportOptions: o, Result: &ImportResult{Image: o.Image}}
	defer i.Close()
	if len(i.Identities) > 0 {
		return i.decrypted(ctx, began)
	}
	if err := needsIdentity(i.Dir); err != nil {
		return nil, err
	}
	if err := i.read(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	return i.Save(ctx, began)
}

// Save makes the image of what was read.
func (i *Importing) Save(ctx context.Context, began time.Time) (_ *ImportResult, err error) {
	if i.target, err = image.NewTarget(i.Image, i.Force); err != nil {
		return nil, err
	}
	id, err := i.Write(ctx)
	if err == nil {
		_, err = i.target.Publish(false)
	}
	if err != nil {
		return nil, err
	}
	i.Result.ID = id.String()
	i.Result.Seconds = time.Since(began).Seconds()
	return i.Result, nil
}

// maxManifest bounds the manifest's text, in bytes.
const maxManifest = 4 << 20

// read reads everything but the memory, and opens that.
func (i *Importing) read() error {
	text, err := i.small(manifestName, maxManifest)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no %s, which says what is in the directory (see ramjet import --help)", manifestName)
	}
	if err != nil {
		return err
	}
	m := &i.Manifest
	if err := json.Unmarshal(text, m); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	if err := m.texts().Restore(m.NotUTF8); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	if m.FormatVersion != manifestVersion {
		return fmt.Errorf("%s has format_version %d, this ramjet knows %d", manifestName, m.FormatVersion, manifestVersion)
	}
	state, err := i.small(m.DeviceState, vmstate.MaxDeviceState)
	if err != nil {
		return err
	}
	if i.sections, err = vmstate.DeviceSections(state); err != nil {
		return fmt.Errorf("%s: %w (it has to be what QEMU's xen-save-devices-state writes)", m.DeviceState, err)
	}
	if m.Description != "" {
		if i.description, err = i.small(m.Description, vmstate.MaxDescription); err != nil {
			return err
		}
		if _, err := vmstate.ParseDescription(i.description); err != nil {
			return fmt.Errorf("%s: %w", m.Description, err)
		}
	}
	return i.blocks()
}

// blocks opens the memory and lays the image out.
func (i *Importing) blocks() error {
	var laid []mappedram.Block
	for _, b := range i.Manifest.Blocks {
		laid = append(laid, mappedram.Block{Name: b.Name, Length: b.Length})
	}
	config := vmstate.Config{MachineType: i.Manifest.Machine, Capabilities: []string{"mapped-ram"}}
	var err error
	if i.Layout, err = mappedram.NewLayout(0, config, laid); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	for _, b := range i.Manifest.Blocks {
		m, err := i.block(b)
		if err != nil {
			return err
		}
		i.Memory = append(i.Memory, m)
	}
	return nil
}

// block opens a block's memory.
func (i *Importing) block(b ManifestBlock) (guestmem.Memory, error) {
	f, err := i.open(b.File)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() > b.Length {
		err = fmt.Errorf("%s has %d bytes, more than the %d of block %s", b.File, st.Size(), b.Length, b.Name)
	}
	if err == nil && st.Size() < b.Length {
		err = fmt.Errorf("%s has %d bytes, fewer than the %d of block %s (truncate -s %d makes the rest zeros)", b.File, st.Size(), b.Length, b.Name, b.Length)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return guestmem.OpenFile(f, 0, b.Length)
}

// open opens a file of the directory; a manifest from elsewhere shall not reach out of it.
func (i *Importing) open(name string) (*os.File, error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%s names the file %q, which is not in the directory", manifestName, name)
	}
	root, err := os.OpenRoot(i.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// A fifo would have the open wait for somebody who writes.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, cmp.Or(err, fmt.Errorf("%s is not a regular file", name))
	}
	return f, nil
}

// small reads a file whole, if it has at most limit bytes.
func (i *Importing) small(name string, limit int64) ([]byte, error) {
	f, err := i.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, err
}

func (i *Importing) Write(ctx context.Context) (id seal.ID, err error) {
	w, l := i.target.File, i.Layout
	if err := w.Truncate(l.RAMEnd); err != nil {
		return id, err
	}
	f, err := image.Scratch(filepath.Dir(i.Image))
	if err != nil {
		return id, err
	}
	io, err := directio.Choose(i.Direct, i.target, os.O_WRONLY)
	if err != nil {
		f.Close()
		return id, err
	}
	s := &transfer.Save{
		Layout: l, Memory: i.Memory, Image: i.target, Sums: transfer.NewSums(f, l.Blocks),
		Params: transfer.Params{Channels: i.Channels, Direct: io.Direct},
	}
	defer s.Sums.Close()
	i.Progress.SetPhase("importing")
	stop := i.Progress.Follow(&s.Progress)
	err = s.Reserve(w)
	if err == nil {
		err = s.Run(ctx)
	}
	stop()
	if err == nil {
		err = s.Release(w)
	}
	if err != nil {
		return id, err
	}
	for _, b := range s.Stored {
		i.Result.PagesStored += b.Count()
	}
	for _, b := range l.Blocks {
		i.Result.PagesTotal += b.Pages()
	}
	i.Result.BytesStored = i.Result.PagesStored * mappedram.PageSize
	m := i.metadata()
	m.Blocks = image.Blocks(l.Blocks, s.Stored)
	out := image.Writer{To: w, Layout: l, Stored: s.Stored, Sums: s.Sums, Sections: i.sections, Description: i.description}
	return out.Sealed(m)
}

// metadata is what the manifest says.
func (i *Importing) metadata() *seal.Metadata {
	f := i.Manifest
	m := &seal.Metadata{
		Created: f.Created, Format: "ramjet", RamjetVersion: image.VersionString(), QEMUVersion: f.QEMUVersion, MachineType: f.Machine,
		WasRunning: f.WasRunning,
	}
	switch {
	case len(f.CommandLine) == 0 && f.Executable == "":
	case i.KeepCommandLine:
		user := uint32(os.Geteuid()) // who says so vouches for it
		m.CommandLine, m.Cwd, m.Executable, m.CommandLineUser = f.CommandLine, f.Cwd, f.Executable, &user
		m.Differs, m.Disks = f.Differs, f.Disks
	default:
		i.Result.DroppedCommandLine = true
	}
	if m.Created.IsZero() {
		m.Created = time.Now().UTC()
	}
	return m
}

func (i *Importing) Close() {
	for _, m := range i.Memory {
		m.Close()
	}
	if i.target != nil {
		i.target.Discard()
	}
}
