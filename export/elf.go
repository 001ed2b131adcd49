// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// An ELF core of a guest is what QEMU's dump-guest-memory writes: a PT_LOAD for each range of physical memory, with the
// physical address as virtual address too (dump/dump.c, write_elf64_load without paging), and two notes for each processor: CORE
// with its registers, which gdb reads, and QEMU with all that crash needs to find a kernel (target/i386/arch_dump.c). Zero
// pages are holes.

// writeELF writes a core of the guest's physical memory.
func writeELF(ctx context.Context, e *export) error {
	core, err := layOutELF(e)
	if err != nil {
		return fmt.Errorf("%s: %w", e.o.Image, err)
	}
	segments := map[string][]elfSegment{} // by block
	for _, s := range core.segments {
		segments[s.Block] = append(segments[s.Block], s)
		e.result.Segments = append(e.result.Segments, Segment{s.Address, s.Length, s.Block, s.Offset})
	}
	var blocks []int
	for i, b := range e.image.Blocks {
		if segments[b.Name] != nil {
			blocks = append(blocks, i)
		} else {
			e.result.LeftOut = append(e.result.LeftOut, b.Name)
		}
	}
	return e.file(e.o.Out, "", core.size, func(f *directio.File) error {
		if _, err := f.WriteAt(core.head, 0); err != nil {
			return err
		}
		return e.eachPage(ctx, blocks, func(block int, off int64, p []byte) error {
			for _, s := range segments[e.image.Blocks[block].Name] {
				if err := s.write(f, off, p); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// layOutELF lays out the core of an image.
func layOutELF(e *export) (*elfCore, error) {
	ranges, err := cmdline.GuestMemory(e.image.Image, e.o.Memory)
	if err != nil {
		return nil, err
	}
	cpus, note, err := cpuStates(e.image.File)
	if err != nil {
		return nil, err
	}
	if len(cpus) > 0 && !cpus[0].longMode {
		return nil, errors.New("its guest is not in 64-bit mode, and only cores of guests that are can be written: export it raw, or restore it and use QEMU's dump-guest-memory")
	}
	guestNote, err := note.read(e.image, ranges)
	if err != nil {
		return nil, err
	}
	e.result.CPUs = len(cpus)
	return newELFCore(ranges, cpus, guestNote), nil
}

// elfCore is an ELF core that is laid out.
type elfCore struct {
	head     []byte // everything before the memory
	segments []elfSegment
	size     int64
}

// elfSegment is a range of physical memory in the file.
type elfSegment struct {
	cmdline.PhysicalRange
	at int64 // in the file
}

// write writes the part of the pages p that lies in the segment. p begins at off in the segment's block.
func (s *elfSegment) write(f *directio.File, off int64, p []byte) error {
	from, to := max(off, s.Offset), min(off+int64(len(p)), s.Offset+s.Length)
	if from >= to {
		return nil
	}
	_, err := f.WriteAt(p[from-off:to-off], s.at+from-s.Offset)
	return err
}

const (
	elfHeaderSize  = 64
	elfProgramSize = 56
)

// newELFCore lays out a core with these ranges of memory and processors, and the guest's own note if there is one.
func newELFCore(ranges []cmdline.PhysicalRange, cpus []cpuState, guestNote []byte) *elfCore {
	var notes bytes.Buffer
	for i, c := range cpus {
		appendNote(&notes, "CORE", uint32(elf.NT_PRSTATUS), c.prstatus(i+1))
	}
	for _, c := range cpus {
		appendNote(&notes, "QEMU", 0, c.qemu())
	}
	notes.Write(guestNote)
	programs := len(ranges) + 1
	notesAt := int64(elfHeaderSize + elfProgramSize*programs)
	at := (notesAt + int64(notes.Len()) + mappedram.PageSize - 1) &^ (mappedram.PageSize - 1)
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) } // into memory: cannot fail
	h := elf.Header64{
		Type: uint16(elf.ET_CORE), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: elfHeaderSize, Ehsize: elfHeaderSize, Phentsize: elfProgramSize, Phnum: uint16(programs),
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	put(h)
	put(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: uint64(notesAt), Filesz: uint64(notes.Len()), Memsz: uint64(notes.Len())})
	c := &elfCore{}
	for _, r := range ranges {
		put(elf.Prog64{
			Type: uint32(elf.PT_LOAD), Off: uint64(at), Vaddr: uint64(r.Address), Paddr: uint64(r.Address),
			Filesz: uint64(r.Length), Memsz: uint64(r.Length),
		})
		c.segments = append(c.segments, elfSegment{r, at})
		at += r.Length
	}
	b.Write(notes.Bytes())
	c.head, c.size = b.Bytes(), at
	return c
}

func appendNote(b *bytes.Buffer, name string, typ uint32, content []byte) {
	put := func(v any) { binary.Write(b, binary.LittleEndian, v) }
	put([]uint32{uint32(len(name) + 1), uint32(len(content)), typ})
	for _, part := range [][]byte{append([]byte(name), 0), content} {
		b.Write(part)
		b.Write(make([]byte, -len(part)&3))
	}
}
