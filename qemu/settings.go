// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
)

type capability struct {
	Name  string `json:"capability"`
	State bool   `json:"state"`
}

func capabilities(caps []capability) Command {
	return Command{"migrate-set-capabilities", map[string]any{"capabilities": caps}}
}

func (vm *VM) setCapabilities(ctx context.Context, caps []capability) error {
	c := capabilities(caps)
	return vm.QMP.Execute(ctx, c.Execute, c.Arguments, nil)
}

// harmless are the capabilities that stay as the administrator set them: they change which events QEMU sends and how
// fast the guest runs, and nothing in the file. All others are turned off for the save, including some that QEMU
// accepts together with mapped-ram: with background-snapshot the file has no pages, with pause-before-switchover the
// guest stays stopped until somebody sends migrate-continue, with x-ignore-shared the file lacks memory, with
// dirty-bitmaps the file has a section that only QEMU can read.
var harmless = []string{"events", "auto-converge", "dirty-limit"}

// plainFile are the values that a mapped-ram file needs of parameters that would not be possible with it
// (migrate_params_check).
var plainFile = map[string]any{
	"multifd-compression": "none", "tls-creds": "", "tls-hostname": "", "tls-authz": "", "mode": "normal", "zero-page-detection": "multifd",
}

// MigrationSettings returns the commands that set a VM up to write a file as m says, and those that put everything back
// exactly as it is now. Each of the latter may be executed without the former, in the order given.
func (vm *VM) MigrationSettings(ctx context.Context, m Migration) (set, undo []Command, err error) {
	var caps []capability
	if err := vm.QMP.Execute(ctx, "query-migrate-capabilities", nil, &caps); err != nil {
		return nil, nil, err
	}
	// Numbers stay as QEMU wrote them: a float64 does not hold 2^64-1.
	var old map[string]json.RawMessage
	if err := vm.QMP.Execute(ctx, "query-migrate-parameters", nil, &old); err != nil {
		return nil, nil, err
	}
	want := map[string]bool{"mapped-ram": true, "multifd": m.Channels > 0, "pause-before-switchover": m.Switchover != nil}
	var off, on, ours, theirs []capability
	for _, c := range caps {
		if slices.Contains(harmless, c.Name) {
			continue
		}
		if c.State {
			off, theirs = append(off, capability{c.Name, false}), append(theirs, c)
		}
		if want[c.Name] {
			on, ours = append(on, capability{c.Name, true}), append(ours, capability{c.Name, false})
		}
	}
	change, back, err := parameters(m, old)
	if err != nil {
		return nil, nil, err
	}
	// Parameters are changed while no capability is on that would refuse them: QEMU looks at those before the change
	// together with mapped-ram, at compression say, even if the change ends them.
	add := func(list []Command, caps []capability) []Command {
		if len(caps) == 0 {
			return list
		}
		return append(list, capabilities(caps))
	}
	set = add(append(add(nil, off), Command{"migrate-set-parameters", change}), on)
	undo = add(append(add(nil, ours), Command{"migrate-set-parameters", back}), theirs)
	return set, undo, nil
}

// parameters returns the parameters to change, with their new and with their present values. Those that this QEMU does
// not have are left out.
func parameters(m Migration, old map[string]json.RawMessage) (change, back map[string]any, err error) {
	want := maps.Clone(plainFile)
	want["direct-io"], want["max-bandwidth"] = m.Direct, m.MaxBandwidth
	if m.Channels > 0 {
		want["multifd-channels"] = m.Channels
	}
	change, back = map[string]any{}, map[string]any{}
	for name, w := range want {
		is, known := old[name]
		if !known {
			continue
		}
		b, err := json.Marshal(w)
		if err != nil {
			return nil, nil, err
		}
		if name == "direct-io" || !bytes.Equal(b, bytes.TrimSpace(is)) {
			change[name], back[name] = w, is
		}
	}
	return change, back, nil
}
