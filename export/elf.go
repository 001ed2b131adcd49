// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// An ELF core of a guest is what QEMU's dump-guest-memory writes: a PT_LOAD for each range of physical memory, with the
// physical address as virtual address too (dump/dump.c, write_elf64_load without paging), and for each processor a note
// CORE with its registers, which gdb reads, and one named QEMU with all that crash needs to find a
// kernel (target/i386/arch_dump.c). Zero pages are holes.

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

// cpuState is what the device state tells of a processor's registers.
type cpuState struct {
	regs       [16]uint64 // rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15
	ip, flags  uint64
	segments   [6]cpuSegment // es cs ss ds fs gs
	tables     [4]cpuSegment // ldt tr gdt idt
	control    [5]uint64     // cr0 to cr4; cr1 is none
	kernelBase uint64        // kernel_gs_base
	longMode   bool          // it runs 64-bit code, or 32-bit code under a 64-bit system
}

type cpuSegment struct {
	selector     uint32
	base         uint64
	limit, flags uint32
}

// The section "cpu" of x86_64, version 12, begins with fields that have not changed since there is one
// (target/i386/machine.c, vmstate_x86_cpu):
//
//	0    16 u64  general registers
//	128  u64     instruction pointer
//	136  u64     flags
//	144  u32     hflags (bit 14: long mode is active, HF_LMA_SHIFT), then 4 u16 and 8 10-byte registers of the floating-point unit
//	236  6       segments es cs ss ds fs gs: u32 selector, u64 base, u32 limit, u32 flags
//	356  4       ldt tr gdt idt, as those
//	436  u32 u64 u64   sysenter
//	456  u64     cr0, cr2, cr3, cr4
//	488  8 u64   debug registers, then i32 a20_mask, u32 mxcsr, 16 16-byte xmm registers
//	816  u64     efer, star, lstar, cstar, fmask, kernel_gs_base
const (
	CpuSection    = "cpu"
	cpuVersion    = 12
	cpuHidden     = 144
	cpuSegments   = 236
	cpuControl    = 456
	cpuKernelBase = 856
	cpuKnown      = 864 // bytes
)

// cpuStates finds the processors in the device state, none if it is of a form that is not known, and where the guest has a note
// for its core.
func cpuStates(img *image.File) (cpus []cpuState, note guestNote, err error) {
	if img.SectionsLength > image.MaxShownState || img.DescriptionLength > image.MaxShownDescription {
		return nil, note, nil
	}
	sections, err := img.DeviceSections()
	if err != nil {
		return nil, note, err
	}
	var d *vmstate.Description
	if text, err := img.Description(); err == nil && text != nil {
		d, _ = vmstate.ParseDescription(text) // it only helps to tell where sections end
	}
	list, err := vmstate.Sections(sections, d)
	if err != nil {
		return nil, note, fmt.Errorf("%w: %w", mappedram.ErrDamaged, err)
	}
	for _, s := range list {
		payload := sections[s.Payload:s.PayloadEnd]
		if s.Name == vmcoreinfoSection {
			note = parseGuestNote(payload)
		}
		if s.Name != CpuSection || s.Version != cpuVersion || len(payload) < cpuKnown {
			continue
		}
		cpus = append(cpus, parseCPU(payload))
	}
	return cpus, note, nil
}

func parseCPU(b []byte) (c cpuState) {
	be := binary.BigEndian
	for i := range c.regs {
		c.regs[i] = be.Uint64(b[8*i:])
	}
	c.ip, c.flags = be.Uint64(b[128:]), be.Uint64(b[136:])
	segment := func(i int) cpuSegment {
		p := b[cpuSegments+20*i:]
		return cpuSegment{be.Uint32(p), be.Uint64(p[4:]), be.Uint32(p[12:]), be.Uint32(p[16:])}
	}
	for i := range c.segments {
		c.segments[i] = segment(i)
	}
	for i := range c.tables {
		c.tables[i] = segment(6 + i)
	}
	for i, at := range map[int]int{0: 0, 2: 8, 3: 16, 4: 24} {
		c.control[i] = be.Uint64(b[cpuControl+at:])
	}
	c.kernelBase = be.Uint64(b[cpuKernelBase:])
	c.longMode = be.Uint32(b[cpuHidden:])>>14&1 != 0
	return c
}

// Registers by QEMU's number.
const (
	rax = iota
	rcx
	rdx
	rbx
	rsp
	rbp
	rsi
	rdi
)

// Segments by QEMU's number.
const (
	segES = iota
	segCS
	segSS
	segDS
	segFS
	segGS
)

// prstatus is struct elf_prstatus of x86_64: 32 bytes, the process id, 76 bytes, 27 registers in the order of struct
// user_regs_struct, 8 bytes.
func (c *cpuState) prstatus(id int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 32), uint32(id))
	b = append(b, make([]byte, 76)...)
	r, s := &c.regs, &c.segments
	for _, v := range []uint64{
		r[15], r[14], r[13], r[12], r[rbp], r[rbx], r[11], r[10], r[9], r[8], r[rax], r[rcx], r[rdx], r[rsi], r[rdi],
		0, c.ip, uint64(s[segCS].selector), c.flags, r[rsp], uint64(s[segSS].selector), s[segFS].base, s[segGS].base,
		uint64(s[segDS].selector), uint64(s[segES].selector), uint64(s[segFS].selector), uint64(s[segGS].selector),
	} {
		b = le.AppendUint64(b, v)
	}
	return append(b, make([]byte, 8)...)
}

// qemuStateSize is the size of QEMU's struct QEMUCPUState, version 1, with the optional kernel_gs_base.
const qemuStateSize = 8 + 18*8 + 10*24 + 5*8 + 8

// qemu is QEMU's struct QEMUCPUState.
func (c *cpuState) qemu() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 1)
	b = le.AppendUint32(b, qemuStateSize)
	for _, i := range []int{rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, 8, 9, 10, 11, 12, 13, 14, 15} {
		b = le.AppendUint64(b, c.regs[i])
	}
	b = le.AppendUint64(b, c.ip)
	b = le.AppendUint64(b, c.flags)
	s := &c.segments
	for _, g := range append([]cpuSegment{s[segCS], s[segDS], s[segES], s[segFS], s[segGS], s[segSS]}, c.tables[:]...) {
		for _, v := range []uint32{g.selector, g.limit, g.flags, 0} {
			b = le.AppendUint32(b, v)
		}
		b = le.AppendUint64(b, g.base)
	}
	for _, v := range c.control {
		b = le.AppendUint64(b, v)
	}
	return le.AppendUint64(b, c.kernelBase)
}
