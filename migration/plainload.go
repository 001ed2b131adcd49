// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// plainReader loads a plain stream (see plain.go) that QEMU or plainWriter wrote.
type plainReader struct {
	in       *bufio.Reader
	view     *View
	sizes    map[string]int // lengths of the contents of devices' sections
	sections []byte         // those that have been read
	ram      uint32         // id of the section "ram"
	last     int            // the block of the last page, -1 at first
	page     [guestmem.PageSize]byte
}

// loadPlain is LoadPlain for the stream that begins at offset at of f.
func loadPlain(ctx context.Context, f io.ReaderAt, at int64, view *View, sizes map[string]int) (sections []byte, err error) {
	for _, m := range view.Memory {
		if err := wipe(m); err != nil {
			return nil, err
		}
	}
	p := &plainReader{in: bufio.NewReaderSize(io.NewSectionReader(f, at, math.MaxInt64-at), plainBurst), view: view, sizes: sizes, last: -1}
	err = p.stream(ctx)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = vmstate.ErrTruncated
	}
	return p.sections, err
}

// wipe makes all of m zeros.
func wipe(m guestmem.Memory) error {
	zeros := make([]byte, plainBurst)
	for r, err := range m.Populated(guestmem.Range{End: m.Size()}) {
		if err != nil {
			return err
		}
		for at := r.Start; at < r.End; at += plainBurst {
			if err := m.Write(zeros[:min(plainBurst, r.End-at)], at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *plainReader) stream(ctx context.Context) error {
	config, _, err := vmstate.ReadHeader(p.in)
	if err != nil {
		return err
	}
	if err := checkMachine(config.MachineType, p.view.Machine); err != nil {
		return err
	}
	if len(config.Capabilities) > 0 {
		return fmt.Errorf("Capability %s is off, but received capability is on", config.Capabilities[0])
	}
	for {
		kind, err := p.in.ReadByte()
		if err != nil {
			return err
		}
		switch kind {
		case vmstate.TypeEOF:
			return nil
		case vmstate.TypeStart, vmstate.TypeFull:
			err = p.begin(kind)
		case vmstate.TypePart, vmstate.TypeEnd:
			err = p.part(ctx)
		case vmstate.TypeCommand:
			err = p.command()
		default:
			err = fmt.Errorf("Unknown section type %d", kind)
		}
		if err != nil {
			return err
		}
	}
}

func (p *plainReader) bytes(n int) ([]byte, error) {
	b := make([]byte, n) // at most 65535
	_, err := io.ReadFull(p.in, b)
	return b, err
}

func (p *plainReader) number(n int) (uint64, error) {
	b, err := p.bytes(n)
	var v [8]byte
	copy(v[8-n:], b)
	return binary.BigEndian.Uint64(v[:]), err
}

func (p *plainReader) name() (string, error) {
	n, err := p.number(1)
	if err != nil {
		return "", err
	}
	b, err := p.bytes(int(n))
	return string(b), err
}

// begin reads the head of a section, then the section.
func (p *plainReader) begin(kind byte) error {
	id, err1 := p.number(4)
	name, err2 := p.name()
	instance, err3 := p.number(4)
	version, err4 := p.number(4)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	if kind == vmstate.TypeStart && name == vmstate.RAMName && instance == 0 {
		if version != vmstate.RAMVersion {
			return fmt.Errorf("unsupported version %d for '%s' v%d", version, name, vmstate.RAMVersion)
		}
		p.ram = uint32(id)
		return p.memory(context.Background())
	}
	size := p.sizes[name]
	if size == 0 || instance != 0 || kind != vmstate.TypeFull {
		return UnknownSection(name, uint32(instance))
	}
	payload, err := p.bytes(size)
	if err != nil {
		return err
	}
	p.sections = vmstate.AppendSectionStart(p.sections, vmstate.TypeFull, uint32(id), name, 0, uint32(version))
	p.sections = vmstate.AppendFooter(append(p.sections, payload...), uint32(id))
	return p.footer(uint32(id), name)
}

func (p *plainReader) footer(id uint32, name string) error {
	b, err := p.bytes(vmstate.FooterSize)
	if err != nil {
		return err
	}
	if b[0] != vmstate.TypeFooter {
		return fmt.Errorf("Missing section footer for %s", name)
	}
	if got := binary.BigEndian.Uint32(b[1:]); got != id {
		return fmt.Errorf("Mismatched section id in footer for %s - read 0x%x expected 0x%x", name, got, id)
	}
	return nil
}

func (p *plainReader) part(ctx context.Context) error {
	id, err := p.number(4)
	if err != nil {
		return err
	}
	if p.ram == 0 || uint32(id) != p.ram {
		return fmt.Errorf("Unknown section %d", id)
	}
	return p.memory(ctx)
}

func (p *plainReader) command() error {
	if _, err := p.number(2); err != nil {
		return err
	}
	n, err := p.number(2)
	if err != nil {
		return err
	}
	_, err = p.bytes(int(n))
	return err
}

// memory reads a part of the section "ram" (ram_load_precopy).
func (p *plainReader) memory(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		v, err := p.number(8)
		if err != nil {
			return err
		}
		addr, flags := int64(v&^uint64(pageFlags)), v&pageFlags
		switch flags &^ pageContinue {
		case vmstate.RAMEndOfSection:
			return p.footer(p.ram, vmstate.RAMName)
		case pageSizes:
			err = p.compareBlocks(addr)
		case pageZero, pageData:
			err = p.load(addr, flags)
		default:
			err = fmt.Errorf("Unknown combination of migration flags: 0x%x", flags)
		}
		if err != nil {
			return err
		}
	}
}

// compareBlocks reads the list of blocks and compares it with the guest's.
func (p *plainReader) compareBlocks(total int64) error {
	for seen := 0; total > 0; seen++ {
		name, err := p.name()
		if err != nil {
			return err
		}
		length, err := p.number(8)
		if err != nil {
			return err
		}
		i := p.view.Find(name)
		switch {
		case i < 0 || seen == len(p.view.Blocks):
			return UnknownBlock(name)
		case int64(length) != p.view.Blocks[i].Length:
			return fmt.Errorf("Length mismatch: %s: 0x%x in != 0x%x", name, length, p.view.Blocks[i].Length)
		}
		total -= int64(length)
	}
	return nil
}

// load reads one page.
func (p *plainReader) load(addr int64, flags uint64) error {
	if flags&pageContinue == 0 {
		name, err := p.name()
		if err != nil {
			return err
		}
		if p.last = p.view.Find(name); p.last < 0 {
			return fmt.Errorf("Can't find block %s", name)
		}
	}
	if p.last < 0 {
		return errors.New("Ack, bad migration stream!")
	}
	m := p.view.Memory[p.last]
	if addr < 0 || addr > m.Size()-guestmem.PageSize {
		return fmt.Errorf("Illegal RAM offset %x", addr)
	}
	if flags&pageData != 0 {
		if _, err := io.ReadFull(p.in, p.page[:]); err != nil {
			return err
		}
		return m.Write(p.page[:], addr)
	}
	c, err := p.in.ReadByte()
	if err != nil {
		return err
	}
	if c == 0 {
		return zeroPage(m, addr)
	}
	for i := range p.page {
		p.page[i] = c
	}
	return m.Write(p.page[:], addr)
}

// zeroPage clears a page unless it is a hole, which stays one. A page of zeros need not be a hole here: a live save
// writes a page again when it has become zero.
func zeroPage(m guestmem.Memory, addr int64) error {
	for _, err := range m.Populated(guestmem.Range{Start: addr, End: addr + guestmem.PageSize}) {
		if err != nil {
			return err
		}
		return m.Write(make([]byte, guestmem.PageSize), addr)
	}
	return nil
}
