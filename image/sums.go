// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// DescribeStream fills in the metadata's description of the stream.
func DescribeStream(m *seal.Metadata, of *mappedram.Image, stored []mappedram.Bitmap) (err error) {
	m.StreamOffset = of.Offset
	m.Blocks = Blocks(of.Blocks, stored)
	m.StreamHash, err = of.StreamHash()
	return err
}

// SumImage reads all stored pages of an image, and returns which are stored, by block, and their sums, in a file that scratch makes. o
// opens the image.
func SumImage(ctx context.Context, image *mappedram.Image, o directio.Opener, params transfer.Params, scratch func() (*os.File, error), p *Progress,
) (stored []mappedram.Bitmap, sums *transfer.Sums, err error) {
	f, err := scratch()
	if err != nil {
		return nil, nil, err
	}
	sums = transfer.NewSums(f, image.Blocks, params.Calls)
	defer func() {
		if err != nil {
			sums.Close()
		}
	}()
	l := &transfer.Load{Image: o, Params: params, Sink: sums.Add}
	for i, b := range image.Blocks {
		if b.Ignored {
			stored = append(stored, nil)
			continue
		}
		bitmap, err := image.Bitmap(i)
		if err != nil {
			return nil, nil, err
		}
		stored = append(stored, bitmap)
		l.Blocks = append(l.Blocks, transfer.LoadBlock{Block: b, Index: i, Stored: bitmap})
	}
	defer p.Follow(&l.Progress)()
	return stored, sums, l.Run(ctx)
}

// Scratch makes a file without a name, for page sums: those of a large guest are too many for memory. The file is in dir or, on a file
// system without such files, in memory after all.
func Scratch(dir string, calls *sys.Calls) (*os.File, error) {
	if f, err := (directio.Names{Calls: calls}).CreateUnnamed(dir); err == nil {
		return f, nil
	}
	fd, err := unix.MemfdCreate("ramjet-page-sums", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a scratch file: %w", err)
	}
	return os.NewFile(uintptr(fd), "page sums"), nil
}

// Beside returns a function that makes a scratch file in the directory of path.
func Beside(path string, calls *sys.Calls) func() (*os.File, error) {
	return func() (*os.File, error) { return Scratch(filepath.Dir(path), calls) }
}

// scratchSums makes room for the sums of an image's pages in a file beside the image.
func scratchSums(path string, l *mappedram.Layout) (*transfer.Sums, error) {
	f, err := Scratch(filepath.Dir(path), nil)
	if err != nil {
		return nil, err
	}
	return transfer.NewSums(f, l.Blocks, nil), nil
}
