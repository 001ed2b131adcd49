// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// Chooser decides how page-sized transfers reach a file. With Auto it goes by
//
//   - the file system: tmpfs is the page cache; what O_DIRECT is on FUSE only its server knows (fileSystem);
//   - alignment, as the kernel tells it (ProbeAlignment);
//   - memory: where the page cache would do, it does not when memory is short (Memory): what goes through it displaces what
//     others need, and in a container counts as the container's own;
//   - residency, when reading: what is in the page cache is faster from there, and a direct read of a page
//     that is dirty there has to wait for its write (Resident).
//
// Where direct I/O works it is taken for what is not cached: memory that was just saved, or restored, is not read from the
// image again soon, and at the end of a buffered write somebody waits for all of it to be written back.
type Chooser struct {
	Mode  Mode
	Bytes int64      // that are to be moved, at most; 0: as many as the file has now
	Calls *sys.Calls // nil: the kernel's
}

// Decision is a Mode come to terms with a file.
type Decision struct {
	Direct bool
	// Cached: what is in the page cache is to be read from there all the same. Only with Direct.
	Cached bool
	// Drop: what is written is not to stay in the page cache when it is on the disk.
	Drop bool
	Why  string // half a sentence, for people
}

// String names the decision as results report it.
func (d Decision) String() string {
	if d.Direct {
		return "direct"
	}
	return "buffered"
}

// Choose decides by opening the file once, with the access mode of flags. With On it returns the
// reason as an error when the file does not take direct I/O. On FUSE a file that is empty, and
// is to be written, may be written to and emptied again.
func (c Chooser) Choose(o Opener, flags int) (Decision, error) {
	if c.Mode == Off {
		return Decision{Why: "direct I/O was turned off"}, nil
	}
	f, err := o.Open(flags | unix.O_DIRECT)
	if err == nil {
		defer f.Close()
		err = refusal(f)
	}
	switch {
	case err != nil && c.Mode == On:
		return Decision{}, fmt.Errorf("direct I/O was asked for, but %w (--direct-io=off or auto goes without)", err)
	case err != nil:
		return c.buffered(f, flags, err.Error()), nil
	case c.Mode == On:
		return Decision{Direct: true, Drop: writes(flags), Why: "direct I/O was asked for"}, nil
	}
	return c.auto(f, flags), nil
}

func writes(flags int) bool { return flags&unix.O_ACCMODE != unix.O_RDONLY }

// refusal is why f, opened with O_DIRECT, does not take transfers of pages.
func refusal(f *os.File) error {
	a, known := ProbeAlignment(f)
	switch {
	case known && a.Offset == 0:
		return errors.New("the file takes no direct I/O (statx)")
	case known && !a.Fits():
		return fmt.Errorf("the file wants direct I/O in units of %d bytes, pages have %d", max(a.Offset, a.Memory), PageSize)
	}
	return nil
}

// auto decides for an f that was opened with O_DIRECT and knows no reason against it.
func (c Chooser) auto(f *os.File, flags int) Decision {
	k := fileSystem(f)
	switch {
	case k.direct:
		return directDecision(f, flags, k.why)
	case k.memory:
		return Decision{Why: k.why}
	}
	if short := c.shortage(f); short != "" && k.probe && c.acceptsPage(f, flags) {
		return directDecision(f, flags, short+", and the file takes direct I/O: a page was tried")
	}
	return c.buffered(f, flags, k.why)
}

// directDecision is the decision for direct I/O.
func directDecision(f *os.File, flags int, why string) Decision {
	if writes(flags) {
		return Decision{Direct: true, Drop: true, Why: why}
	}
	if n, err := Resident(f, 0, 0); err == nil && n > 0 {
		why += fmt.Sprintf("; %d MiB of it are in the page cache", (n+1<<20-1)>>20)
	}
	return Decision{Direct: true, Cached: true, Why: why}
}

// buffered is the decision for the page cache. f is nil if it could not be opened.
func (c Chooser) buffered(f *os.File, flags int, why string) Decision {
	d := Decision{Why: why}
	if short := c.shortage(f); short != "" && writes(flags) {
		d.Drop = true
		d.Why += "; " + short + ", so it does not stay in the page cache"
	}
	return d
}

// shortage says why what is to be moved should not go through the page cache; "" if there is memory enough, or nobody can say.
func (c Chooser) shortage(f *os.File) string {
	bytes := c.Bytes
	if bytes == 0 && f != nil {
		if st, err := f.Stat(); err == nil {
			bytes = st.Size()
		}
	}
	return readMemory().shortage(bytes)
}

// acceptsPage tries whether f, which was opened with O_DIRECT, takes a page. What is not empty is not written to.
func (c Chooser) acceptsPage(f *os.File, flags int) bool {
	page, err := NewBuffer(PageSize)
	if err != nil {
		return false
	}
	defer page.Free()
	if !writes(flags) {
		_, err = sys.Of(c.Calls).Pread(int(f.Fd()), page, 0)
		return err == nil
	}
	if st, err := f.Stat(); err != nil || st.Size() != 0 {
		return false
	}
	n, err := sys.Of(c.Calls).Pwrite(int(f.Fd()), page, 0)
	return errors.Join(err, sys.Of(c.Calls).Ftruncate(int(f.Fd()), 0)) == nil && n == PageSize
}
