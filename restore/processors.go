// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"fmt"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// processors counts the processors in the device state: each has a section of its own. 0: it cannot be told.
func processors(img *image.File, sections []byte) (n int) {
	if len(sections) > image.MaxParsedState {
		return 0
	}
	var d *vmstate.Description
	if img.DescriptionLength <= image.MaxParsedDescription {
		if text, err := img.Description(); err == nil && text != nil {
			d, _ = vmstate.ParseDescription(text) // it only helps to tell where sections end
		}
	}
	list, err := vmstate.Sections(sections, d)
	if err != nil {
		return 0
	}
	for _, s := range list {
		if s.Name == vmstate.CPUSection {
			n++
		}
	}
	return n
}

// compareProcessors finds another number of processors than the saved VM had. QEMU itself would name a section of the state ("Unknown
// section or instance 'cpu_common' 1"), or run with processors that the guest has never started.
func (r *restore) compareProcessors(ctx context.Context, in *qemu.Incoming) error {
	if r.state.processors == 0 {
		return nil
	}
	var cpus []struct{}
	if err := in.QMP.Execute(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return fmt.Errorf("cannot ask for the processors: %w", err)
	}
	if saved := r.state.processors; len(cpus) != saved {
		return fmt.Errorf("the saved VM had %d processors and this one has %d: start it as the saved one was (-smp %d, or a processor that was plugged in)", saved, len(cpus), saved)
	}
	return nil
}
