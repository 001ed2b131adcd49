// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/test/allocs"
)

// FuzzServer: whatever bytes and descriptors a client sends, in whatever pieces,
// the session ends with it, everything it was told is a line of ASCII and JSON,
// and no descriptor stays.
func FuzzServer(f *testing.F) {
	f.Add([]byte(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"exec-oob":"oob-name"}{"execute":"add-fd","id":1}`), 7)
	f.Add([]byte("{'execute':'qmp_capabilities'}\x01{'execute':'event'}\xff[]{}"), 1)
	f.Add([]byte(`{"execute":"qmp_capabilities"}{"execute":"add-fd","arguments":{"fdset-id":1}}{"execute":"echo","arguments":{"a":[1.5e3,"\u00e9"]}}`), 3)
	file := tempFile(f, "")
	f.Fuzz(func(t *testing.T, input []byte, seed int) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		conns := make([]*net.UnixConn, 2)
		for i, fd := range fds {
			osf := os.NewFile(uintptr(fd), "")
			c, err := net.FileConn(osf)
			if err != nil {
				t.Fatal(err)
			}
			osf.Close()
			conns[i] = c.(*net.UnixConn)
		}
		before := countFDs(t)
		done := make(chan error, 1)
		go func() { done <- testServer().ServeConn(t.Context(), conns[1]) }()
		go func() {
			piece := 1 + seed&15
			for n := 0; len(input) > 0; n++ {
				k := min(piece, len(input))
				var fds []int
				if n%3 == 0 {
					fds = []int{int(file.Fd()), int(file.Fd())}[:1+n%2]
				}
				if (clientConn{conns[0], sys.Of(nil)}).send(input[:k], fds) != nil {
					return
				}
				input = input[k:]
			}
			conns[0].CloseWrite()
		}()
		out, err := io.ReadAll(conns[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		conns[0].Close()
		if n := countFDs(t); n != before-2 {
			t.Fatalf("%d descriptors left", n-before+2)
		}
		for _, line := range strings.SplitAfter(string(out), "\r\n") {
			if line != "" && (!json.Valid([]byte(line)) || !strings.HasSuffix(line, "\r\n") || strings.IndexFunc(line, func(r rune) bool { return r > 0x7e }) >= 0) {
				t.Fatalf("said %q", line)
			}
		}
	})
}
