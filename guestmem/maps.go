// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mapping is one line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	start, end uint64
	perms      string
	offset     uint64
	device     uint64
	inode      uint64
	path       string
}

func (m mapping) shared() bool { return len(m.perms) > 3 && m.perms[3] == 's' }

// writable reports whether the process may write to it.
func (m mapping) writable() bool { return len(m.perms) > 1 && m.perms[1] == 'w' }

// span is the mapping, or the run of mappings that are one (mbind(2) and madvise(2) split
// them), that holds a block.
type span struct {
	mapping
	start, end uint64 // of the whole run
}

// errNoSuchMapping: the list of mappings has changed since it was read.
var errNoSuchMapping = errors.New("the process has changed its memory map")

// ErrNotMapped: the process has no such memory.
var ErrNotMapped = errors.New("the process has no memory there")

// maps opens the list of a process's mappings; a test replaces it.
var maps = func(pid int) (io.ReadCloser, error) { return os.Open(fmt.Sprintf("/proc/%d/maps", pid)) }

// findSpan returns what is mapped at [addr, addr+size) in process pid.
func findSpan(pid int, addr uint64, size int64) (span, error) {
	f, err := maps(pid)
	if err != nil {
		return span{}, permission(pid, err)
	}
	defer f.Close()
	end := addr + uint64(size)
	var s span
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m, err := parseMapping(lines.Text())
		if err != nil {
			return span{}, err
		}
		switch {
		case m.end <= addr || m.start >= end:
			continue
		case s.end == 0:
			if m.start > addr {
				return span{}, ErrNotMapped
			}
			s = span{m, m.start, m.end}
		case m.start > s.end:
			return span{}, ErrNotMapped
		case m.shared() != s.shared() || m.inode != s.inode || m.device != s.device,
			m.inode != 0 && m.offset != s.offset+(m.start-s.start):
			return span{}, fmt.Errorf("it is made of different mappings (%s and %s)", s.describe(), m.describe())
		default:
			// A list that changes while it is read may show a mapping twice, split or joined meanwhile.
			s.end = max(s.end, m.end)
		}
	}
	if err := lines.Err(); err != nil {
		return span{}, permission(pid, err)
	}
	if s.end < end {
		return span{}, ErrNotMapped
	}
	return s, nil
}

func (m mapping) describe() string {
	if m.inode == 0 {
		return "anonymous memory"
	}
	return m.path
}

// parseMapping takes "start-end perms offset major:minor inode path".
func parseMapping(line string) (mapping, error) {
	bad := func() (mapping, error) { return mapping{}, fmt.Errorf("cannot read the memory map line %q", line) }
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 5 {
		return bad()
	}
	var m mapping
	var err [6]error
	lo, hi, ok := strings.Cut(fields[0], "-")
	major, minor, ok2 := strings.Cut(fields[3], ":")
	if !ok || !ok2 {
		return bad()
	}
	m.start, err[0] = strconv.ParseUint(lo, 16, 64)
	m.end, err[1] = strconv.ParseUint(hi, 16, 64)
	m.offset, err[2] = strconv.ParseUint(fields[2], 16, 64)
	ma, e3 := strconv.ParseUint(major, 16, 32)
	mi, e4 := strconv.ParseUint(minor, 16, 32)
	err[3], err[4] = e3, e4
	m.inode, err[5] = strconv.ParseUint(fields[4], 10, 64)
	if errors.Join(err[:]...) != nil {
		return bad()
	}
	m.perms = fields[1]
	m.device = unix.Mkdev(uint32(ma), uint32(mi))
	if len(fields) == 6 {
		m.path = strings.TrimLeft(fields[5], " ")
	}
	return m, nil
}

// openMapped opens the file behind a mapping: by /proc/PID/map_files, which is exact but
// needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN (proc_pid_map_files(5)), else by a descriptor that the
// process still holds on the same inode.
func openMapped(pid int, m mapping, flags int) (*os.File, error) {
	f, first := os.OpenFile(fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.start, m.end), flags, 0)
	if first == nil {
		return f, nil
	}
	if errors.Is(first, unix.ENOENT) {
		first = errNoSuchMapping
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, permission(pid, err)
	}
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if !m.isOf(path) {
			continue
		}
		if f, err := os.OpenFile(path, flags, 0); err == nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("cannot open the file behind its memory, %s: %w (run as root)", m.path, first)
}

// isOf reports whether a descriptor in /proc is of the mapped file. On btrfs, and with some kernels on overlayfs, the memory map names
// another device than stat(2) does (show_map_vma, btrfs_getattr): there the file's path has to be the same.
func (m mapping) isOf(descriptor string) bool {
	var st unix.Stat_t
	if unix.Stat(descriptor, &st) != nil || st.Ino != m.inode {
		return false
	}
	if st.Dev == m.device {
		return true
	}
	path, err := os.Readlink(descriptor)
	return err == nil && path == unescape(m.path)
}

// unescape undoes what the kernel makes of a line's end in a path there (seq_file_path).
func unescape(path string) string { return strings.ReplaceAll(path, `\012`, "\n") }

// permission says what to do when the kernel keeps a process's memory from us.
func permission(pid int, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("no permission to read the memory of process %d: run as root or as its user (and see ptrace_scope in ptrace(2)): %w", pid, err)
	}
	return err
}
