// SPDX-License-Identifier: Apache-2.0

package export

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// directory is a directory with a manifest that is imported. Nothing in it is trusted.
type directory struct {
	path     string
	manifest Manifest
	contents image.Contents
}

func (d *directory) close() {
	for _, m := range d.contents.Memory {
		m.Close()
	}
}

// maxManifest bounds the manifest's text, in bytes.
const maxManifest = 4 << 20

// read reads everything but the memory, which it opens.
func (d *directory) read() error {
	text, err := d.readAll(manifestName, maxManifest)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no %s, which says what is in the directory (see ramjet import --help)", manifestName)
	}
	if err != nil {
		return err
	}
	m := &d.manifest
	if err := json.Unmarshal(text, m); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	if err := m.texts().Restore(m.NotUTF8); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	if m.FormatVersion != manifestVersion {
		return fmt.Errorf("%s has format_version %d, this ramjet knows %d", manifestName, m.FormatVersion, manifestVersion)
	}
	state, err := d.readAll(m.DeviceState, vmstate.MaxDeviceState)
	if err != nil {
		return err
	}
	if d.contents.Sections, err = vmstate.DeviceSections(state); err != nil {
		return fmt.Errorf("%s: %w (it has to be what QEMU's xen-save-devices-state writes)", m.DeviceState, err)
	}
	if m.Description != "" {
		if d.contents.Description, err = d.readAll(m.Description, vmstate.MaxDescription); err != nil {
			return err
		}
		if _, err := vmstate.ParseDescription(d.contents.Description); err != nil {
			return fmt.Errorf("%s: %w", m.Description, err)
		}
	}
	return d.openBlocks()
}

// openBlocks opens the memory and lays the image out.
func (d *directory) openBlocks() error {
	var laid []mappedram.Block
	for _, b := range d.manifest.Blocks {
		laid = append(laid, mappedram.Block{Name: b.Name, Length: b.Length})
	}
	config := vmstate.Config{MachineType: d.manifest.Machine, Capabilities: []string{"mapped-ram"}}
	var err error
	if d.contents.Layout, err = mappedram.NewLayout(0, config, laid); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	for _, b := range d.manifest.Blocks {
		m, err := d.openBlock(b)
		if err != nil {
			return err
		}
		d.contents.Memory = append(d.contents.Memory, m)
	}
	return nil
}

// openBlock opens a block's memory.
func (d *directory) openBlock(b ManifestBlock) (guestmem.Memory, error) {
	f, err := d.open(b.File)
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
	return guestmem.OpenFile(f, 0, b.Length, nil)
}

// open opens a regular file in the directory. A manifest from elsewhere cannot reach out of the directory, by .. or by links.
func (d *directory) open(name string) (*os.File, error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%s names the file %q, which is not in the directory", manifestName, name)
	}
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// Without O_NONBLOCK a fifo would have the open wait for a writer.
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

// readAll reads a whole file, if it has at most limit bytes.
func (d *directory) readAll(name string, limit int64) ([]byte, error) {
	f, err := d.open(name)
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
