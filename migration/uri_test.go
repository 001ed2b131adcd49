// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/ramjet-vm/ramjet/test/allocs"
)

// TestParseSize: what QEMU 10.0.2 made of each; see also test/conformance.
func TestParseSize(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]any{
		"0": 0, "4096": 4096, "+5": 5, " 5": 5, "1.5M": 0x180000, "1.": 1, "1.k": 0x400, ".5k": 0x200, "0x1b": 0x1b, "0X1B": 0x1b,
		"1.0": 1, "5b": 5, "00k": 0, "0.1k": 0x66, "0.0001k": 0, "+0x5": 5, "15E": uint64(15) << 60, "18446744073709551615": uint64(1<<64 - 1),
		".k": syscall.EINVAL, "1e3": syscall.EINVAL, "0x": syscall.EINVAL, "0x1k": syscall.EINVAL, "5k ": syscall.EINVAL, "5kk": syscall.EINVAL,
		"1.5": syscall.EINVAL, "1.5B": syscall.EINVAL, "0x1.8": syscall.EINVAL, "-1k": syscall.EINVAL, "-0x5": syscall.EINVAL, "": syscall.EINVAL,
		"k": syscall.EINVAL, "-": syscall.EINVAL, "0x20M": syscall.EINVAL, "--5": syscall.EINVAL,
		"-0": syscall.ERANGE, "-5": syscall.ERANGE, "16E": syscall.ERANGE, "18446744073709551616": syscall.ERANGE,
		"0x10000000000000000": syscall.ERANGE,
	} {
		n, err := parseSize(s)
		switch want := want.(type) {
		case int:
			if err != nil || n != uint64(want) {
				t.Errorf("%q: %d, %v; want %d", s, n, err, want)
			}
		case uint64:
			if err != nil || n != want {
				t.Errorf("%q: %d, %v; want %d", s, n, err, want)
			}
		case syscall.Errno:
			if !errors.Is(err, want) {
				t.Errorf("%q: %d, %v; want %v", s, n, err, want)
			}
		}
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"file:/dev/fdset/1,offset=1.5M", "file:", "tcp:a:1", "file:x,offset=,offset=-1", "file:x,offset=.E", ":", "file:x,offset=0x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		a, err := ParseURI(s)
		if err != nil {
			if a != (Address{}) || !strings.Contains(err.Error(), "unknown migration protocol") && !strings.Contains(err.Error(), "bad offset") {
				t.Errorf("%q: %+v, %v", s, a, err)
			}
			return
		}
		if a.Transport == "file" && !strings.HasPrefix(s, "file:"+a.Path) {
			t.Errorf("%q: %+v", s, a)
		}
	})
}
