// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"strings"
	"testing"
)

// TestExpectedLines (15.13) has QEMU complain once for each report of free pages, in pieces, amid what a user is to
// see.
func TestExpectedLines(t *testing.T) {
	const report = "qemu-system-x86_64: ram_block_discard_range: Discarding RAM with readonly files is not supported\n"
	var out bytes.Buffer
	s := &stderrLog{out: &out}
	said := report + "first\n" + strings.Repeat(report, 3) + "second\n" + report + "no end"
	half := len(said) / 2
	s.Write([]byte(said[:half]))
	s.release()
	for _, b := range []byte(said[half:]) {
		s.Write([]byte{b})
	}
	s.endLine()
	if got := out.String(); got != "first\nsecond\nno end" {
		t.Errorf("passed on: %q", got)
	}
}
