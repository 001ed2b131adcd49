// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Config is the configuration section: what the loading QEMU compares with itself before it reads anything else.
type Config struct {
	// MachineType is the versioned name, as "pc-q35-10.0". Empty: the stream has no configuration section.
	MachineType string
	// PageBits is log2 of the target's page size; 0 where the section does not say, as always on x86.
	PageBits uint32
	// Capabilities lists the enabled ones of "x-ignore-shared" and "mapped-ram", in this order. QEMU refuses to load
	// when its own settings differ.
	Capabilities []string
	// UUID is the VM's, 16 bytes, or nil. It is there only with the capability validate-uuid.
	UUID []byte
}

// Has reports whether the capability was enabled in the VM that wrote the stream.
func (c Config) Has(capability string) bool { return slices.Contains(c.Capabilities, capability) }

const (
	subPageBits     = "configuration/target-page-bits"
	subCapabilities = "configuration/capabilities"
	subUUID         = "configuration/uuid"
	subVersion      = 1
)

// AppendHeader appends magic, version and the configuration section. Without MachineType there is no section.
func AppendHeader(b []byte, c Config) []byte {
	m := Magic()
	b = append(b, m[:]...)
	if c.MachineType == "" {
		return b
	}
	b = append(b, TypeConfiguration)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.MachineType)))
	b = append(b, c.MachineType...)
	if c.PageBits != 0 {
		b = appendSubsection(b, subPageBits)
		b = binary.BigEndian.AppendUint32(b, c.PageBits)
	}
	if len(c.Capabilities) > 0 {
		b = appendSubsection(b, subCapabilities)
		b = binary.BigEndian.AppendUint32(b, uint32(len(c.Capabilities)))
		for _, name := range c.Capabilities {
			b = append(b, byte(len(name)))
			b = append(b, name...)
		}
	}
	if len(c.UUID) == 16 {
		b = appendSubsection(b, subUUID)
		b = append(b, c.UUID...)
	}
	return b
}

func appendSubsection(b []byte, name string) []byte {
	b = append(b, TypeSubsection, byte(len(name)))
	b = append(b, name...)
	return binary.BigEndian.AppendUint32(b, subVersion)
}

// ReadHeader reads magic, version and the configuration section. n is their length. Whether another subsection follows
// shows only in the byte after the last one, so r stands at n when it is an io.ByteScanner and one byte further when
// it is not.
//
// Errors are ErrNotStream, ErrVersion, ErrTruncated (r ends inside the header), ErrCorrupt, or r's own.
func ReadHeader(r io.Reader) (c Config, n int64, err error) {
	h := &reader{r: r}
	m := h.bytes(MagicSize)
	switch {
	case h.err == nil && [4]byte(m[:4]) != magic:
		return c, h.n, ErrNotStream
	case h.err != nil && errors.Is(h.err, ErrTruncated):
		// A file shorter than the magic is no stream that was cut off, it is something else.
		return c, h.n, ErrNotStream
	case h.err != nil:
		return c, h.n, h.err
	}
	switch v := binary.BigEndian.Uint32(m[4:]); {
	case v < Version:
		return c, h.n, fmt.Errorf("%w: version %d is obsolete and QEMU itself no longer loads it", ErrVersion, v)
	case v > Version:
		return c, h.n, fmt.Errorf("%w: version %d, this program knows %d", ErrVersion, v, Version)
	}
	if !h.next(TypeConfiguration) {
		return c, h.n, h.err
	}
	c.MachineType = h.string(h.u32(), MaxMachineName, "machine type")
	for h.next(TypeSubsection) {
		h.subsection(&c)
	}
	return c, h.n, h.err
}

// subsection reads one subsection of the configuration after its type byte. A name that QEMU does not know it refuses
// to load, and so does this.
func (h *reader) subsection(c *Config) {
	name := h.string(uint32(h.u8()), 255, "subsection")
	version := h.u32()
	switch {
	case h.err != nil:
	case version != subVersion:
		h.fail("subsection %s has version %d, not %d", name, version, subVersion)
	case name == subPageBits && c.PageBits == 0:
		c.PageBits = h.u32()
		if h.err == nil && (c.PageBits < 8 || c.PageBits > 24) {
			h.fail("a page of 2^%d bytes", c.PageBits)
		}
	case name == subCapabilities && c.Capabilities == nil:
		count := h.u32()
		if count > MaxCapabilities {
			h.fail("%d capabilities", count)
		}
		for i := uint32(0); i < count && h.err == nil; i++ {
			c.Capabilities = append(c.Capabilities, h.string(uint32(h.u8()), 255, "capability"))
		}
	case name == subUUID && c.UUID == nil:
		c.UUID = h.bytes(16)
	default:
		h.fail("unknown or repeated subsection %q in the configuration", name)
	}
}

// reader counts what it reads and keeps the first error, after which everything reads as zero.
type reader struct {
	r       io.Reader
	n       int64
	err     error
	pending []byte // a byte looked at by next and not taken; only next is called after that
}

func (h *reader) fail(format string, args ...any) {
	if h.err == nil {
		h.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
}

// bytes returns the next size bytes. The caller has checked size.
func (h *reader) bytes(size uint32) []byte {
	b := make([]byte, size)
	if h.err != nil {
		return b
	}
	got, err := io.ReadFull(h.r, b)
	h.n += int64(got)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = ErrTruncated
	}
	h.err = err
	return b
}

func (h *reader) u8() byte    { return h.bytes(1)[0] }
func (h *reader) u32() uint32 { return binary.BigEndian.Uint32(h.bytes(4)) }

func (h *reader) string(size, limit uint32, what string) string {
	if h.err == nil && size > limit {
		h.fail("a name of %d bytes for a %s", size, what)
	}
	if h.err != nil {
		return ""
	}
	b := h.bytes(size)
	if h.err == nil && !printable(b) {
		h.fail("%q is no name of a %s", b, what)
	}
	return string(b)
}

// next takes the next byte if it is want, and leaves it otherwise. The end of the input is not an error here.
func (h *reader) next(want byte) bool {
	if h.err != nil {
		return false
	}
	if len(h.pending) == 0 {
		var b [1]byte
		if _, err := io.ReadFull(h.r, b[:]); err != nil {
			if err != io.EOF {
				h.err = err
			}
			return false
		}
		h.pending = b[:]
	}
	if h.pending[0] == want {
		h.pending = nil
		h.n++
		return true
	}
	if s, ok := h.r.(io.ByteScanner); ok && s.UnreadByte() == nil {
		h.pending = nil
	}
	return false
}
