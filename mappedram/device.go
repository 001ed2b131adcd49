// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"errors"
	"io"

	"github.com/ramjet-vm/ramjet/vmstate"
)

// OpenOnDevice opens the image whose stream begins at offset of a block device of size bytes. The stream ends somewhere before the
// device does, and has no seal.
func OpenOnDevice(r io.ReaderAt, size, offset int64) (*Image, error) {
	m, err := OpenAt(r, size, offset)
	if err == nil || !errors.Is(err, ErrIncomplete) || m == nil {
		return m, err
	}
	end, err := vmstate.FindEnd(r, m.RAMEnd, size, m.SectionID)
	if err != nil {
		return nil, streamError(err)
	}
	return (&Image{Layout: &Layout{Offset: offset}, FileSize: end, r: r}).open()
}
