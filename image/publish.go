// SPDX-License-Identifier: Apache-2.0

package image

import "github.com/ramjet-vm/ramjet/directio"

// PublishInPlace makes an image of a file that has its name already (all that there is of it may be a passed descriptor): everything is
// durable before the magic is written, which is the one small write that makes the file an image, and that is durable when the function
// returns. A crash in between leaves a file without the magic, which nothing takes for an image. commit, if it is not nil, may refuse
// at the last moment, when all but the magic is there.
func PublishInPlace(f *directio.File, w *Writer, commit func() error) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if commit != nil {
		if err := commit(); err != nil {
			return err
		}
	}
	if err := w.Magic(); err != nil {
		return err
	}
	return f.Sync()
}
