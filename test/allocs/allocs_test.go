// SPDX-License-Identifier: Apache-2.0

package allocs

import "testing"

var kept [][]byte

// failed takes note of an error instead of failing.
type failed struct {
	testing.TB
	errors int
}

func (f *failed) Errorf(string, ...any) { f.errors++ }

// TestAtMost counts one large allocation and many small ones, and nothing from before.
func TestAtMost(t *testing.T) {
	kept = append(kept, make([]byte, 2<<20))
	for _, c := range []struct{ pieces, size, errors int }{{1, 100, 0}, {1, 2 << 20, 1}, {2 << 10, 1 << 10, 1}, {2 << 6, 1 << 10, 0}} {
		f := &failed{TB: t}
		check := AtMost(f, 1<<20)
		for range c.pieces {
			kept = append(kept, make([]byte, c.size))
		}
		check()
		if f.errors != c.errors {
			t.Errorf("%d times %d bytes: %d errors", c.pieces, c.size, f.errors)
		}
	}
	kept = nil
}
