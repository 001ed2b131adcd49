// SPDX-License-Identifier: Apache-2.0

// Package allocs holds what reads hostile input to the memory that it may take.
package allocs

import (
	"runtime/metrics"
	"testing"
)

// Fuzz is how much a fuzz target may allocate for one input, in bytes.
const Fuzz = 64 << 20

// AtMost begins to count, and returns what fails the test if more than limit bytes have been allocated since on the Go heap by
// the whole process, what was freed again included. It stops nothing, so it can be asked at each of a million inputs; some KiB of small
// objects may be missing.
func AtMost(t testing.TB, limit uint64) (check func()) {
	before := allocated()
	return func() {
		if n := allocated() - before; n > limit {
			t.Errorf("%d MiB allocated, %d are allowed", n>>20, limit>>20)
		}
	}
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
