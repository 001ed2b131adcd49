// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stderrLog holds what a new QEMU says until it runs, so that an error can quote it. After
// that it goes to our standard error, or nowhere if the VM is to outlive us.
type stderrLog struct {
	memory *os.File // detached: QEMU writes here and we read back
	read   *os.File // else: the pipe from QEMU
	write  *os.File
	out    io.Writer // where it goes then

	mu   sync.Mutex
	kept bytes.Buffer
	line []byte // that has not ended yet, when open
	open bool   // pass on

	drained chan struct{} // closed when QEMU and its children have closed the pipe
}

const maxKept = 64 << 10

func newStderrLog(detach bool) (*stderrLog, error) {
	if !detach {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		return &stderrLog{read: r, write: w, out: os.Stderr, drained: make(chan struct{})}, nil
	}
	// A file in memory, since nobody will be there to empty a pipe. Its size is fixed beforehand and then sealed: a
	// QEMU that goes on complaining for months gets an error for it, which it ignores.
	fd, err := unix.MemfdCreate("qemu-stderr", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "QEMU's standard error")
	if err := f.Truncate(maxKept); err != nil {
		f.Close()
		return nil, err
	}
	if _, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW); err != nil {
		f.Close()
		return nil, err
	}
	return &stderrLog{memory: f}, nil
}

// sink is what QEMU gets as its standard error.
func (s *stderrLog) sink() *os.File {
	if s.memory != nil {
		return s.memory
	}
	return s.write
}

// close gives everything up when no QEMU has inherited the sink.
func (s *stderrLog) close() {
	for _, f := range []*os.File{s.memory, s.read, s.write} {
		f.Close() // of nil too
	}
}

// started is to be called when QEMU has inherited the sink.
func (s *stderrLog) started() {
	if s.memory != nil {
		return
	}
	s.write.Close()
	go func() {
		defer close(s.drained)
		_, _ = io.Copy(s, s.read)
		s.endLine()
	}()
}

// drain waits, when QEMU has ended, until its last words are here; not long, for a child of its may hold the pipe.
func (s *stderrLog) drain() {
	if s.memory != nil {
		return
	}
	select {
	case <-s.drained:
	case <-time.After(time.Second):
	}
}

func (s *stderrLog) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		s.pass(p)
	} else if s.kept.Len() < maxKept {
		s.kept.Write(p)
	}
	return len(p), nil
}

// expected is what QEMU says each time a balloon, or free page reporting, wants to give back memory that is mapped from
// an image (ram_block_discard_range): nothing is wrong, and it may be said a hundred times a second.
var expected = []byte("Discarding RAM with readonly files is not supported")

// pass passes lines on, without those that are expected.
func (s *stderrLog) pass(p []byte) {
	s.line = append(s.line, p...)
	for {
		end := bytes.IndexByte(s.line, '\n') + 1
		if end == 0 {
			return
		}
		if !bytes.Contains(s.line[:end], expected) {
			s.out.Write(s.line[:end])
		}
		s.line = s.line[end:]
	}
}

// endLine passes on what QEMU said last without an end of the line.
func (s *stderrLog) endLine() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		s.out.Write(s.line)
		s.line = nil
	}
}

// release passes on what came and what will come.
func (s *stderrLog) release() {
	if s.memory != nil {
		s.memory.Close()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = true
	s.pass(s.kept.Bytes())
	s.kept.Reset()
}

// last is the last line that says what is wrong, without QEMU's own name before it.
func (s *stderrLog) last() string {
	var text []byte
	if s.memory != nil {
		text, _ = io.ReadAll(io.NewSectionReader(s.memory, 0, maxKept))
		text = bytes.TrimRight(text, "\x00")
	} else {
		s.mu.Lock()
		text = bytes.Clone(s.kept.Bytes())
		s.mu.Unlock()
	}
	last := ""
	for _, l := range slices.Backward(strings.Split(strings.TrimSpace(string(text)), "\n")) {
		l = strings.TrimSpace(l)
		if l == "" || strings.Contains(l, ": warning: ") {
			continue
		}
		if name, rest, ok := strings.Cut(l, ": "); ok && (strings.HasPrefix(name, "qemu") || strings.Contains(name, "/qemu")) {
			return rest // what stands below it without the name is advice: "Use -machine help to list supported machines"
		}
		if last == "" {
			last = l
		}
	}
	return last
}
