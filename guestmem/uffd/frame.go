// SPDX-License-Identifier: Apache-2.0

package uffd

import (
	"encoding/binary"
	"fmt"
)

// registers are the general registers in the order of struct user_regs_struct (PTRACE_GETREGSET, NT_PRSTATUS).
type registers struct {
	R15, R14, R13, R12, RBP, RBX, R11, R10, R9, R8, RAX, RCX, RDX, RSI, RDI, OrigRAX, RIP, CS, EFlags, RSP, SS,
	FSBase, GSBase, DS, ES, FS, GS uint64
}

// noCall in OrigRAX says that a thread is in no system call.
const noCall = ^uint64(0)

// call returns r with a system call in place of what the thread did: three arguments, on the stack at sp, which has the address at which the
// thread goes on behind the call.
func (r registers) call(syscallRet, sp, number uint64, args ...uint64) registers {
	r.RIP, r.RSP, r.RAX, r.OrigRAX = syscallRet, sp, number, noCall
	for i, to := range []*uint64{&r.RDI, &r.RSI, &r.RDX}[:len(args)] {
		*to = args[i]
	}
	return r
}

// restarted returns r as the kernel would leave it for a thread that goes on after a stop: a system call that was interrupted begins
// again (arch_do_signal_or_restart). ERESTART_RESTARTBLOCK too begins from its start, so that a relative sleep may take longer.
func (r registers) restarted() registers {
	const restartSys, restartNoIntr, restartNoHand, restartBlock = -512, -513, -514, -516
	if int64(r.OrigRAX) < 0 {
		return r
	}
	switch int64(r.RAX) {
	case restartSys, restartNoIntr, restartNoHand, restartBlock:
		r.RAX = r.OrigRAX
		r.RIP -= 2 // the length of the syscall instruction
	}
	return r
}

// Offsets in struct rt_sigframe and in the XSAVE area's software bytes (arch/x86/include/uapi/asm/sigcontext.h).
const (
	frameFlags    = 8
	frameStack    = 24 + 8 // uc_stack.ss_flags
	frameContext  = 48     // struct sigcontext
	contextSelect = frameContext + 18*8
	contextFP     = contextSelect + 8 + 4*8
	frameMask     = frameContext + 256
	frameSize     = frameMask + 8 + 128 // siginfo is not looked at on the way back

	softwareBytes = 464
	legacyArea    = 512
	magic1        = 0x46505853
	magic2        = 0x46505845

	redZone = 128
)

// frame builds the signal frame that takes a thread back to the registers r with the signal mask and the XSAVE area x, for a stack pointer r.RSP.
// It returns the address F where the frame's bytes belong.
func frame(r registers, mask, restoreRT uint64, xsave []byte) (at uint64, b []byte, err error) {
	if len(xsave) < legacyArea+64 {
		return 0, nil, fmt.Errorf("the thread's vector registers take %d bytes, fewer than XSAVE has", len(xsave))
	}
	x := extended(xsave)
	fp := (r.RSP - redZone - uint64(len(x))) &^ 63
	at = (fp-frameSize)&^15 - 8 // as behind a call instruction
	b = make([]byte, fp-at+uint64(len(x)))
	le := binary.LittleEndian
	le.PutUint64(b, restoreRT)
	const xstate, contextSS, strictSS = 1, 2, 4
	le.PutUint64(b[frameFlags:], xstate|contextSS|strictSS)
	// No valid flags: do_sigaltstack refuses them, and rt_sigreturn goes on without having touched the alternate stack.
	le.PutUint32(b[frameStack:], 4)
	for i, v := range []uint64{r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.RDI, r.RSI, r.RBP, r.RBX, r.RDX, r.RAX, r.RCX,
		r.RSP, r.RIP, r.EFlags} {
		le.PutUint64(b[frameContext+8*i:], v)
	}
	le.PutUint16(b[contextSelect:], uint16(r.CS))
	le.PutUint16(b[contextSelect+6:], uint16(r.SS))
	le.PutUint64(b[contextFP:], fp)
	le.PutUint64(b[frameMask:], mask)
	copy(b[fp-at:], x)
	return at, b, nil
}

// extended is an XSAVE area as ptrace(2) gives it, with the marks by which rt_sigreturn knows that it has more than the legacy part
// (struct _fpx_sw_bytes). Without them the kernel restores SSE alone.
func extended(xsave []byte) []byte {
	le := binary.LittleEndian
	x := append(append([]byte(nil), xsave...), 0, 0, 0, 0)
	// ptrace puts the mask of enabled features where the software bytes begin (XSTATE_FX_SW_OFFSET).
	features := le.Uint64(x[softwareBytes:])
	clear(x[softwareBytes:legacyArea])
	le.PutUint32(x[softwareBytes:], magic1)
	le.PutUint32(x[softwareBytes+4:], uint32(len(x)))
	le.PutUint64(x[softwareBytes+8:], features)
	le.PutUint32(x[softwareBytes+16:], uint32(len(xsave)))
	le.PutUint32(x[len(xsave):], magic2)
	return x
}
