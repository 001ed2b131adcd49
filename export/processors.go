// SPDX-License-Identifier: Apache-2.0

package export

import (
	"encoding/binary"
	"fmt"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// cpuState has a processor's registers from the device state.
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

// The section "cpu" of x86_64, version 12, begins with fields that have never changed
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
	cpuVersion    = 12
	cpuHidden     = 144
	cpuSegments   = 236
	cpuControl    = 456
	cpuKernelBase = 856
	cpuKnown      = 864 // bytes
)

// cpuStates finds the processors in the device state, none if the state is of an unknown form, and where the guest has a note for its
// core.
func cpuStates(img *image.File) (cpus []cpuState, note guestNote, err error) {
	if img.SectionsLength > image.MaxParsedState || img.DescriptionLength > image.MaxParsedDescription {
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
		if s.Name != vmstate.CPUSection || s.Version != cpuVersion || len(payload) < cpuKnown {
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
