// SPDX-License-Identifier: Apache-2.0

package fdset

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Need is what a migration will open of a set and how it will use it.
type Need struct {
	// Write is saving, into descriptors open for writing only; otherwise it is
	// loading, from descriptors open for reading only. A descriptor for both
	// matches neither: that is QEMU's rule.
	Write bool
	// Channels is the number of page channels besides the main channel.
	Channels int
	// Direct has the page channels use O_DIRECT. The main channel, which
	// carries headers, bitmaps and device state, never does.
	Direct bool
	// Offset is where in the file the stream begins, in bytes.
	Offset int64
	// Unit is what offsets, lengths and addresses of page I/O are multiples
	// of, in bytes; 0 is 4096.
	Unit int64
}

// Problem is a way in which a set can be wrong.
type Problem int

// The problems, in the order in which Check looks for them.
const (
	Empty           Problem = iota + 1 // no descriptors, only duplicates of removed ones
	AccessMode                         // none with the right access mode
	OnlyOne                            // one descriptor where two are needed
	SameDescriptors                    // two, which are one open file description
	AllDirect                          // none without O_DIRECT
	NoDirect                           // none with O_DIRECT
	NotSeekable                        // not a regular file or a block device
	Append                             // O_APPEND
	Synchronous                        // O_SYNC or O_DSYNC
	DifferentFiles                     // with and without O_DIRECT, of different files
	NoDirectSupport                    // the file system does not take O_DIRECT for the file
	Alignment                          // the device wants larger units than pages
	OutOfRange                         // the offset is outside the file
)

// WrongSetError says that a set does not fit a migration, in one sentence.
type WrongSetError struct {
	ID      int64
	Problem Problem
	// FDs are the numbers of the descriptors that are wrong.
	FDs  []int
	Text string
}

func (e *WrongSetError) Error() string {
	return fmt.Sprintf("Descriptor set %d cannot be used: %s", e.ID, e.Text)
}

// Check looks at the whole set that path names for what a migration will open of
// it. It returns nil if everything is there and fits, otherwise a *WrongSetError,
// or an *Error if path names no set. The set and its descriptors stay as they
// are, down to the positions.
func (s *Sets) Check(path string, need Need) error {
	id, err := ParsePath(path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set, err := s.get(id)
	if err != nil {
		return err
	}
	c := check{id: id, need: need, mode: unix.O_RDONLY}
	if need.Write {
		c.mode = unix.O_WRONLY
	}
	if c.need.Unit == 0 {
		c.need.Unit = 4096
	}
	return c.run(set.members)
}

// check is one check under way.
type check struct {
	id   int64
	need Need
	mode int // the access mode that is needed
	all  []fact
}

// fact is what is known about a descriptor.
type fact struct {
	member
	flags int
	st    unix.Stat_t
}

func (f *fact) direct() bool { return f.flags&unix.O_DIRECT != 0 }

func (c *check) wrong(p Problem, about []*fact, format string, args ...any) error {
	e := &WrongSetError{ID: c.id, Problem: p, Text: fmt.Sprintf(format, args...)}
	for _, f := range about {
		e.FDs = append(e.FDs, f.name)
	}
	return e
}

func (c *check) run(members []member) error {
	if len(members) == 0 {
		return c.wrong(Empty, nil, "it has no descriptors any more: pass them with add-fd")
	}
	var right []*fact // those with the access mode, newest first
	c.all = make([]fact, len(members))
	for i, m := range members {
		f := &c.all[i]
		f.member = m
		flags, err := unix.FcntlInt(uintptr(m.fd), unix.F_GETFL, 0)
		if err == nil {
			err = unix.Fstat(m.fd, &f.st)
		}
		if err != nil {
			return &Error{Text: fmt.Sprintf("Failed to read file status flags for fd=%d", m.name), Errno: errno(err)}
		}
		if f.flags = flags; flags&unix.O_ACCMODE == c.mode {
			right = append(right, f)
		}
	}
	slices.Reverse(right)
	if len(right) == 0 {
		return c.accessMode()
	}
	main := first(right, func(f *fact) bool { return !f.direct() })
	page := main
	if c.need.Direct && c.need.Channels > 0 {
		page = first(right, (*fact).direct)
	}
	for _, f := range []*fact{main, page} {
		if f == nil {
			continue
		}
		if err := c.file(f); err != nil {
			return err
		}
	}
	if main == nil || page == nil {
		return c.missing(right, main == nil)
	}
	if main == page {
		return nil
	}
	if !sameFile(&main.st, &page.st) {
		return c.wrong(DifferentFiles, []*fact{main, page},
			"%v and %v are of different files (%s and %s), pages and headers belong into the same",
			main, page, identity(&main.st), identity(&page.st))
	}
	return c.directIO(page)
}

func first(facts []*fact, ok func(*fact) bool) *fact {
	if i := slices.IndexFunc(facts, ok); i >= 0 {
		return facts[i]
	}
	return nil
}

// purpose and its like are the parts of sentences that depend on the direction.
func (c *check) purpose() string {
	if c.need.Write {
		return "saving"
	}
	return "loading"
}

var modeNames = map[int]string{
	unix.O_RDONLY: "for reading only",
	unix.O_WRONLY: "for writing only",
	unix.O_RDWR:   "for reading and writing",
}

func (c *check) modeName(f *fact) string {
	if name, ok := modeNames[f.flags&unix.O_ACCMODE]; ok {
		return name
	}
	return "with access mode 3"
}

func (c *check) accessMode() error {
	var about []*fact
	var parts []string
	for i := range c.all {
		f := &c.all[i]
		about = append(about, f)
		parts = append(parts, fmt.Sprintf("%v is open %s", f, c.modeName(f)))
	}
	const most = 4
	if n := len(parts) - most; n > 0 {
		parts = append(parts[:most], fmt.Sprintf("and %d more", n))
	}
	return c.wrong(AccessMode, about, "%s, %s needs descriptors open exactly %s",
		strings.Join(parts, ", "), c.purpose(), modeNames[c.mode])
}

// missing explains why there is no descriptor for the main channel (plain) or for
// the page channels among those with the right access mode.
func (c *check) missing(right []*fact, plain bool) error {
	if f := c.wrongMode(plain); f != nil {
		return c.wrong(AccessMode, []*fact{f}, "%v is open %s, %s needs it open exactly %s",
			f, c.modeName(f), c.purpose(), modeNames[c.mode])
	}
	if !c.need.Direct || c.need.Channels == 0 {
		return c.wrong(AllDirect, right[:1], "%v is open with O_DIRECT, headers and device state need one without", right[0])
	}
	if reason := noDirectIO(right[0].fd); reason != "" && !plain {
		return c.wrong(NoDirectSupport, right[:1], "direct-io needs a descriptor with O_DIRECT, and the file of %v %s: "+
			"use another file system, or switch direct-io off", right[0], reason)
	}
	if len(right) == 1 {
		has, lacks := "without", "with"
		if plain {
			has, lacks = lacks, has
		}
		return c.wrong(OnlyOne, right, "it has only %v for %s, open %s O_DIRECT, and direct-io needs a second one, from an open(2) of its own, %s O_DIRECT",
			right[0], c.purpose(), has, lacks)
	}
	a, b := right[1], right[0]
	if same, _ := sameDescription(a.fd, b.fd); same == Same {
		return c.wrong(SameDescriptors, []*fact{a, b}, "%v and %v are the same open file description (dup), "+
			"direct-io needs two from an open(2) each, one with O_DIRECT and one without", a, b)
	}
	if plain {
		return c.wrong(AllDirect, []*fact{a, b}, "%v and %v are both open with O_DIRECT, headers and device state need one without", a, b)
	}
	return c.wrong(NoDirect, []*fact{a, b}, "%v and %v are both open without O_DIRECT, direct-io needs one with", a, b)
}

// wrongMode looks for the descriptor that is missing among those with another
// access mode.
func (c *check) wrongMode(plain bool) *fact {
	for i := range c.all {
		f := &c.all[i]
		if f.flags&unix.O_ACCMODE != c.mode && f.direct() != plain {
			return f
		}
	}
	return nil
}

// file looks at one descriptor's file.
func (c *check) file(f *fact) error {
	kind := f.st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return c.wrong(NotSeekable, []*fact{f}, "%v is a %s, pages have their places in a regular file or a block device", f, kindName(kind))
	}
	if _, err := unix.Seek(f.fd, 0, unix.SEEK_CUR); err != nil { // moves nothing
		return c.wrong(NotSeekable, []*fact{f}, "%v is not seekable, and pages have their places in the file", f)
	}
	if c.need.Write && f.flags&unix.O_APPEND != 0 {
		return c.wrong(Append, []*fact{f}, "%v is open with O_APPEND, which makes Linux ignore where to write: pass one that was opened without", f)
	}
	if f.flags&unix.O_SYNC != 0 {
		return c.wrong(Synchronous, []*fact{f}, "%v is open with O_SYNC or O_DSYNC, and it is opened without: pass one that was opened so", f)
	}
	switch {
	case c.need.Offset < 0:
		return c.wrong(OutOfRange, []*fact{f}, "offset %d is negative", c.need.Offset)
	case !c.need.Write && kind == unix.S_IFREG && f.st.Size <= c.need.Offset:
		return c.wrong(OutOfRange, []*fact{f}, "the file of %v has %d bytes, there is nothing to load at offset %d", f, f.st.Size, c.need.Offset)
	}
	return nil
}

// directIO looks at whether page I/O with O_DIRECT will succeed.
func (c *check) directIO(f *fact) error {
	align, known := directAlignment(f.fd)
	switch {
	case !known:
		return nil
	case align == 0:
		return c.wrong(NoDirectSupport, []*fact{f}, "the file of %v %s: use another file, or switch direct-io off", f, refused)
	case align > c.need.Unit || c.need.Unit%align != 0:
		return c.wrong(Alignment, []*fact{f}, "direct I/O on the file of %v must be aligned to %d bytes, pages have %d: switch direct-io off",
			f, align, c.need.Unit)
	}
	return nil
}

// directAlignment returns what direct I/O on a file must be aligned to, in memory
// and in the file; 0 if the file does not take it. It is not known before Linux
// 6.1, and of file systems that do not tell.
func directAlignment(fd int) (align int64, known bool) {
	var st unix.Statx_t
	if err := sys.statx(fd, unix.STATX_DIOALIGN, &st); err != nil || st.Mask&unix.STATX_DIOALIGN == 0 {
		return 0, false
	}
	if st.Dio_offset_align == 0 {
		return 0, true
	}
	return int64(max(st.Dio_mem_align, st.Dio_offset_align)), true
}

const refused = "does not take direct I/O"

// noDirectIO says why a file knows no direct I/O, "" if it may. tmpfs takes the
// flag from Linux 6.6 on, and ignores it.
func noDirectIO(fd int) string {
	var st unix.Statfs_t
	if sys.fstatfs(fd, &st) == nil {
		switch int64(st.Type) {
		case unix.TMPFS_MAGIC:
			return "is on tmpfs, which knows no direct I/O"
		case unix.RAMFS_MAGIC:
			return "is on ramfs, which knows no direct I/O"
		case unix.HUGETLBFS_MAGIC:
			return "is on hugetlbfs, which knows no direct I/O"
		}
	}
	if align, known := directAlignment(fd); known && align == 0 {
		return refused
	}
	return ""
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFDIR:
		return "directory"
	}
	return "special file"
}

func identity(st *unix.Stat_t) string {
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return fmt.Sprintf("block device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return fmt.Sprintf("inode %d on device %d:%d", st.Ino, unix.Major(st.Dev), unix.Minor(st.Dev))
}
