// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"errors"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/seal"
)

// TestUnfinishedSeal: an image on which sealing was interrupted is refused as such, and known for the image that it was before.
func TestUnfinishedSeal(t *testing.T) {
	for _, description := range []string{"", `{"devices": []}`, `{"devices": [ ]}`, `{"devices": [  ]}` + strings.Repeat(" ", 4)} {
		l, err := NewLayout(0, config, workedBlocks)
		check(t, err)
		var text []byte
		if description != "" {
			text = []byte(description)
		}
		f, stored := sample(t, l, text)
		before, err := Open(f, f.size)
		check(t, err)
		m := &seal.Metadata{Format: "qemu"}
		var n int64
		for i, b := range l.Blocks {
			m.Blocks = append(m.Blocks, seal.Block{Name: b.Name, Length: b.Length, PageSize: b.PageSize, PagesStored: stored[i].Count()})
			n += stored[i].Count()
		}
		w, err := seal.NewWriter(f, before.StreamEnd, m)
		check(t, err)
		check(t, w.AppendSums(make([]uint64, n)))
		_, end, err := w.Close()
		check(t, err)
		begun := before.StreamEnd + 7 + int64(len(sealStart))
		for _, cut := range []int64{begun, begun + 1, begun + 1000, end - seal.FooterSize, end - 100, end - 1} {
			c := f.clone()
			c.truncate(cut)
			got, err := Open(c, cut)
			if !errors.Is(err, ErrIncomplete) || got == nil {
				t.Fatalf("cut to %d of %d bytes: %v", cut, end, err)
			}
			if !got.Unfinished || got.Complete || got.Seal != nil || got.StreamEnd != before.StreamEnd ||
				got.SectionsLength != before.SectionsLength || got.DescriptionOffset != before.DescriptionOffset {
				t.Errorf("cut to %d of %d bytes: %+v, want %+v", cut, end, got, before)
			}
		}
		// The file has grown, its content is lost.
		for _, n := range []int64{1, 7, 4096, 1 << 20} {
			c := f.clone()
			c.truncate(before.StreamEnd)
			c.WriteAt(make([]byte, n), before.StreamEnd)
			got, err := Open(c, c.size)
			if !errors.Is(err, ErrIncomplete) || got == nil || !got.Unfinished || got.StreamEnd != before.StreamEnd {
				t.Errorf("%d zeros behind the stream: %+v, %v", n, got, err)
			}
		}
		if got, err := Open(f, end); err != nil || got.Unfinished || got.Seal == nil {
			t.Errorf("whole: %+v, %v", got, err)
		}
		// Anything else behind a stream is no seal.
		c := f.clone()
		c.size = before.StreamEnd
		c.WriteAt([]byte("something else entirely, long enough to hold anything"), before.StreamEnd)
		if _, err := Open(c, c.size); err == nil {
			t.Error("an image with something behind its stream was taken")
		}
	}
}
