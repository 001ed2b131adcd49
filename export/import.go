// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/export/age"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// ImportOptions are what Import can be told. Dir and Image are required.
type ImportOptions struct {
	Dir      string    // where the manifest image.json is; with Identities the encrypted file
	From     io.Reader // with Identities: the encrypted file, if it has no name; Dir is then only what messages call it
	Image    string    // to be made
	Force    bool      // replace an existing image
	Channels int       // 1 to 255; 0: chosen
	Direct   directio.Mode

	Identities []age.Identity // one of these keys decrypts Dir

	// KeepCommandLine records in the image how its VM was started, if what is imported has that. A restore runs it, so this is for
	// imports whose origin the user knows.
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

// Import makes an image of raw memory and device state, as a Manifest describes them: what Export wrote, or what came
// from elsewhere, with pmemsave and xen-save-devices-state of QEMU for example. With Identities it makes one of a file that Export
// encrypted. Nothing is at Image unless all of it is.
func Import(ctx context.Context, o ImportOptions) (*ImportResult, error) {
	began := time.Now()
	if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
		return nil, err
	}
	r := &ImportResult{Image: o.Image}
	from := importDirectory
	if len(o.Identities) > 0 {
		from = importEncrypted
	}
	if err := from(ctx, &o, r); err != nil {
		return nil, err
	}
	r.BytesStored = r.PagesStored * mappedram.PageSize
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

// importDirectory makes the image of a directory's files.
func importDirectory(ctx context.Context, o *ImportOptions, r *ImportResult) error {
	if err := refuseEncrypted(o.Dir); err != nil {
		return err
	}
	d := &directory{path: o.Dir}
	defer d.close()
	if err := d.read(); err != nil {
		return fmt.Errorf("%s: %w", o.Dir, err)
	}
	d.contents.Metadata, r.DroppedCommandLine = d.manifest.metadata(o.KeepCommandLine)
	o.Progress.SetPhase("importing")
	made, err := image.Make(ctx, image.MakeOptions{
		Path: o.Image, Force: o.Force, Channels: o.Channels, Direct: o.Direct, Progress: o.Progress,
	}, &d.contents)
	if err != nil {
		return err
	}
	r.ID, r.PagesTotal, r.PagesStored = made.ID.String(), made.PagesTotal, made.PagesStored
	return nil
}

// refuseEncrypted refuses a file that is encrypted: it takes an identity. What else cannot be imported is found when it is read.
func refuseEncrypted(path string) error {
	f, err := image.OpenRegular(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if is, _ := age.IsEncrypted(bufio.NewReader(f)); is {
		return fmt.Errorf("%s is encrypted with age: give a key of its recipients with --identity FILE", path)
	}
	return nil
}
