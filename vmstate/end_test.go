// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestFindEnd: the end of a stream with something behind it.
func TestFindEnd(t *testing.T) {
	const ram = 2
	device := func(id uint32, payload string) []byte {
		b := AppendSectionStart(nil, TypeFull, id, "device", 0, 1)
		return AppendFooter(append(b, payload...), id)
	}
	head := AppendFooter(binary.BigEndian.AppendUint64(nil, RAMEndOfSection), ram)
	head = append(head, AppendSectionPart(nil, TypeEnd, ram)...)
	head = append(head, head[:8+FooterSize]...)
	garbage := bytes.Repeat([]byte{0xAA}, 8192)
	zeros := make([]byte, EndZeros)
	tricky := string(AppendFooter(nil, 7)) + "\x00\x01"
	for name, c := range map[string]struct {
		sections, description, behind []byte
	}{
		"zeros behind it":        {device(3, "state"), nil, append(bytes.Clone(zeros), garbage...)},
		"the device's end":       {device(3, "state"), nil, nil},
		"a description":          {device(3, "state"), []byte(`{"devices": []}`), garbage},
		"an end within a device": {append(device(3, "a"), device(7, "b"+tricky+"c")...), nil, zeros},
		"no devices":             {nil, nil, zeros},
		"more than a first look": {device(3, string(bytes.Repeat([]byte{1}, 3<<20))), []byte(`{}`), garbage},
	} {
		stream := AppendEnd(append(bytes.Clone(head), c.sections...), c.description)
		all := append(bytes.Clone(stream), c.behind...)
		end, err := FindEnd(bytes.NewReader(all), 0, int64(len(all)), ram)
		if err != nil || end != int64(len(stream)) {
			t.Errorf("%s: %d of %d, %v", name, end, len(stream), err)
		}
		// Cut off anywhere it is an error or ends there.
		for n := 0; n < min(len(stream), 200); n++ {
			if end, err := FindEnd(bytes.NewReader(stream[:n]), 0, int64(n), ram); err == nil && end > int64(n) {
				t.Errorf("%s: the end of %d bytes is at %d", name, n, end)
			}
		}
	}
}
