// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mode says how page data is to reach a file.
type Mode int

// Auto takes direct I/O where the file can, On insists, Off never.
const (
	Auto Mode = iota
	On
	Off
)

var modeNames = []string{"auto", "on", "off"}

func (m Mode) String() string { return modeNames[m] }

// Set makes a Mode usable as a command-line flag.
func (m *Mode) Set(s string) error {
	for i, n := range modeNames {
		if s == n {
			*m = Mode(i)
			return nil
		}
	}
	return fmt.Errorf("%q is not one of %s", s, strings.Join(modeNames, ", "))
}

// Type names the flag's values in help texts.
func (m *Mode) Type() string { return "auto|on|off" }

// Decision is a Mode come to terms with a file.
type Decision struct {
	Direct bool
	Why    string // half a sentence, for people
}

// String names the decision as results report it.
func (d Decision) String() string {
	if d.Direct {
		return "direct"
	}
	return "buffered"
}

// Choose decides for page-sized transfers with the access mode of flags, by
// opening the file so once. With On it returns the reason as an error when
// the file does not take direct I/O.
func Choose(m Mode, o Opener, flags int) (Decision, error) {
	if m == Off {
		return Decision{Why: "direct I/O was turned off"}, nil
	}
	refuse := func(why string) (Decision, error) {
		if m == On {
			return Decision{}, fmt.Errorf("direct I/O was asked for, but %s (--direct-io=off or auto goes without)", why)
		}
		return Decision{Why: why}, nil
	}
	f, err := o.Open(flags | unix.O_DIRECT)
	if err != nil {
		return refuse(err.Error())
	}
	defer f.Close()
	if why := memoryFileSystem(f); why != "" && m == Auto {
		return Decision{Why: why}, nil
	}
	a, known := ProbeAlignment(f)
	switch {
	case known && a.Offset == 0:
		return refuse("the file takes no direct I/O (statx)")
	case known && !a.Fits():
		return refuse(fmt.Sprintf("the file wants direct I/O in units of %d bytes, pages have %d", max(a.Offset, a.Memory), PageSize))
	}
	return Decision{Direct: true, Why: "the file takes direct I/O"}, nil
}

// memoryFileSystem says why direct I/O is pointless on f: tmpfs takes the flag since
// Linux 6.6 and copies through its page cache all the same.
func memoryFileSystem(f *os.File) string {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil {
		return ""
	}
	switch st.Type {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "the file is in memory"
	}
	return ""
}
