// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"cmp"
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// placeMemory returns the names of the blocks whose memory does not come through the state stream: those of memory backends. With
// Instant it changes the command line so that they are mapped from the image or its base; with Eager they are filled (filling).
func placeMemory(mode Mode, img *image.Image, l *qemu.Launch) (outside map[string]bool, err error) {
	outside = map[string]bool{}
	args := cmdline.ParseArgs(l.Args)
	l.Given = l.Args
	var mapped []cmdline.MappedBlock
	for i, b := range img.Blocks {
		if !args.Mappable(b.Name) || b.PagesOffset == 0 {
			continue
		}
		err := args.CheckMemorySize(b.Name, b.Length)
		if err == nil && mode == Eager {
			err = args.CheckWritable(b.Name)
		}
		if err != nil {
			return nil, err
		}
		outside[b.Name] = true
		file := 0
		if img.FromBase(i) {
			file, b = 1, img.Base.Blocks[img.Base.Index(b.Name)]
		}
		mapped = append(mapped, cmdline.MappedBlock{Name: b.Name, Size: b.Length, Offset: b.PagesOffset, Path: inherited(file)})
	}
	if mode == Eager {
		return outside, nil
	}
	changed, err := args.MapBlocks(mapped)
	if err != nil {
		// The error advises an eager restore, which would write into memory files that another VM may use: that is said first.
		return nil, cmp.Or(l.CheckFree(), err)
	}
	l.Args = changed.Words()
	l.Files = []*os.File{img.Descriptor}
	if img.Base != nil {
		l.Files = append(l.Files, img.Base.Descriptor)
	}
	return outside, nil
}

// inherited is the path within QEMU of one of the launch's files, by its index.
func inherited(file int) string { return fmt.Sprintf("/proc/self/fd/%d", qemu.FirstFile+file) }
