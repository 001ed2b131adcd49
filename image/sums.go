// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// DescribeStream fills in what the metadata says of the stream itself.
func DescribeStream(m *seal.Metadata, of *mappedram.Image, stored []mappedram.Bitmap) (err error) {
	m.StreamOffset = of.Offset
	m.Blocks = Blocks(of.Blocks, stored)
	m.StreamHash, err = of.StreamHash()
	return err
}

// SumImage reads all stored pages of an image and returns which they are and their sums, kept in a file that scratch makes.
func SumImage(ctx context.Context, image *mappedram.Image, o directio.Opener, params transfer.Params, scratch func() (*os.File, error), p *Progress) (stored []mappedram.Bitmap, sums *transfer.Sums, err error) {
	f, err := scratch()
	if err != nil {
		return nil, nil, err
	}
	sums = transfer.NewSums(f, image.Blocks)
	defer func() {
		if err != nil {
			sums.Close()
		}
	}()
	l := &transfer.Load{Image: o, Params: params, Check: sums.Add}
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
