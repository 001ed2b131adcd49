// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Libvirt is the header that libvirt puts before the stream (src/qemu/qemu_saveimage.h). Numbers are in the order of
// the host that wrote it:
//
//	0    16    "LibvirtQemudSave"; "LibvirtQemudPart" until the save is complete
//	16   u32   version, 2
//	20   u32   length of what is between this header and the stream
//	24   u32   whether the VM ran
//	28   u32   format of the stream
//	32   u32   offset of the cookie from the header's end, 0 if there is none
//	36   56    unused
//	92         domain XML, NUL, cookie XML, NUL, padding
type Libvirt struct {
	Version    uint32
	Complete   bool
	WasRunning bool
	// Format is "raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse", or a number. Only "sparse" is mapped-ram.
	Format       string
	XML          string // of the domain, 1 to 16 MiB
	Cookie       string // libvirt's own, XML
	StreamOffset int64
}

const (
	libvirtSize    = 92
	libvirtVersion = 2
	maxLibvirtData = 16 << 20 // bytes; libvirt writes the XML and 64 KiB

	libvirtDone = "LibvirtQemudSave"
	libvirtPart = "LibvirtQemudPart"
)

// libvirtFormats are the names of virQEMUSaveFormat, in its order, which libvirt promises never to change.
var libvirtFormats = []string{"raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse"}

// ReadLibvirt reads libvirt's header from the first size bytes of r. ErrNotImage if there is none.
func ReadLibvirt(r io.ReaderAt, size int64) (*Libvirt, error) {
	if size < libvirtSize {
		return nil, ErrNotImage
	}
	b := make([]byte, libvirtSize)
	if err := readAt(r, b, 0); err != nil {
		return nil, err
	}
	l := &Libvirt{Complete: string(b[:16]) == libvirtDone}
	if !l.Complete && string(b[:16]) != libvirtPart {
		return nil, ErrNotImage
	}
	// As libvirt does: a version that cannot be is one of the other byte order.
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(b[16:]) > libvirtVersion {
		order = binary.BigEndian
	}
	l.Version = order.Uint32(b[16:])
	if l.Version == 0 || l.Version > libvirtVersion {
		return nil, fmt.Errorf("%w: libvirt's header has version %d, this program knows %d", ErrNewer, order.Uint32(b[16:]), libvirtVersion)
	}
	data, format, cookie := int64(order.Uint32(b[20:])), order.Uint32(b[28:]), int64(order.Uint32(b[32:]))
	l.WasRunning = order.Uint32(b[24:]) != 0
	l.Format = fmt.Sprint(format)
	if int(format) < len(libvirtFormats) {
		l.Format = libvirtFormats[format]
	}
	l.StreamOffset = libvirtSize + data
	switch {
	case data == 0 || data > maxLibvirtData:
		return nil, fmt.Errorf("%w: libvirt's header has %d bytes of XML", ErrDamaged, data)
	case cookie > data:
		return nil, fmt.Errorf("%w: libvirt's header has its cookie at %d of %d bytes", ErrDamaged, cookie, data)
	case l.StreamOffset > size:
		return nil, fmt.Errorf("%w: libvirt's header goes to offset %d, the file only to %d", ErrIncomplete, l.StreamOffset, size)
	}
	text := make([]byte, data)
	if err := readAt(r, text, libvirtSize); err != nil {
		return nil, err
	}
	l.XML = untilNUL(text)
	if cookie > 0 {
		l.XML = untilNUL(text[:cookie])
		l.Cookie = untilNUL(text[cookie:])
	}
	return l, nil
}

func untilNUL(b []byte) string {
	if k := bytes.IndexByte(b, 0); k >= 0 {
		b = b[:k]
	}
	return string(b)
}

// usable refuses files of libvirt whose stream is not mapped-ram.
func (l *Libvirt) usable() error {
	switch {
	case !l.Complete:
		return fmt.Errorf("%w: libvirt marked it as partial; the save was interrupted", ErrIncomplete)
	case l.Format != "sparse":
		return fmt.Errorf("%w: libvirt saved it in the format %s; save it again with virsh save --image-format sparse", ErrPlainStream, l.Format)
	}
	return nil
}
