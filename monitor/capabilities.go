// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"slices"

	"github.com/ramjet-vm/ramjet/qmp"
)

// capabilityNames are QEMU 10's, in its order (MigrationCapability).
var capabilityNames = []string{
	"xbzrle", "rdma-pin-all", "auto-converge", "zero-blocks", "events", "postcopy-ram", "x-colo", "release-ram",
	"return-path", "pause-before-switchover", "multifd", "dirty-bitmaps", "postcopy-blocktime", "late-block-activate",
	"x-ignore-shared", "validate-uuid", "background-snapshot", "zero-copy-send", "postcopy-preempt", "switchover-ack",
	"dirty-limit", "mapped-ram",
}

type capability string

func (capability) Values() []string { return capabilityNames }

// capabilityStatus is an element of query-migrate-capabilities and migrate-set-capabilities.
type capabilityStatus struct {
	Name  capability `json:"capability"`
	State bool       `json:"state"`
}

func (m *Monitor) queryCapabilities(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]capabilityStatus, len(capabilityNames))
	for i, name := range capabilityNames {
		list[i] = capabilityStatus{capability(name), m.settings.caps[name]}
	}
	return list, nil
}

func (m *Monitor) setCapabilities(_ context.Context, r *qmp.Request) (any, error) {
	var args struct {
		List []capabilityStatus `json:"capabilities"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	if m.out.Active() || m.in.loading() {
		return nil, qmp.Errorf("There's a migration process in progress")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	caps := map[string]bool{}
	for name, on := range m.settings.caps {
		caps[name] = on
	}
	for _, c := range args.List {
		caps[string(c.Name)] = c.State
	}
	if err := checkCapabilities(caps); err != nil {
		return nil, err
	}
	m.settings.caps = caps
	return nil, nil
}

// exclusion is a combination that QEMU refuses.
type exclusion struct{ one, other, text string }

// exclusions are all of them (migrate_caps_check), in its order.
var exclusions = slices.Concat([]exclusion{
	{"postcopy-ram", "x-ignore-shared", "Postcopy is not compatible with ignore-shared"},
	{"postcopy-ram", "multifd", "Postcopy is not yet compatible with multifd"},
}, noSnapshot(), []exclusion{
	{"multifd", "xbzrle", "Multifd is not compatible with xbzrle"},
	{"mapped-ram", "xbzrle", "Mapped-ram migration is incompatible with xbzrle"},
	{"mapped-ram", "postcopy-ram", "Mapped-ram migration is incompatible with postcopy"},
})

// noSnapshot are those of background-snapshot (check_caps_background_snapshot).
func noSnapshot() (list []exclusion) {
	for _, name := range []string{"postcopy-ram", "dirty-bitmaps", "postcopy-blocktime", "late-block-activate", "return-path", "multifd",
		"pause-before-switchover", "auto-converge", "release-ram", "rdma-pin-all", "xbzrle", "x-colo", "validate-uuid", "zero-copy-send"} {
		list = append(list, exclusion{"background-snapshot", name, "Background-snapshot is not compatible with " + name})
	}
	return list
}

// notHere are capabilities that mean something that this guest does not have.
var notHere = []string{"postcopy-ram", "postcopy-preempt", "switchover-ack", "x-ignore-shared"}

func checkCapabilities(caps map[string]bool) error {
	for _, e := range exclusions {
		if caps[e.one] && caps[e.other] {
			return qmp.Errorf("%s", e.text)
		}
	}
	for _, c := range []struct{ one, needs, text string }{
		{"postcopy-preempt", "postcopy-ram", "Postcopy preempt requires postcopy-ram"},
		{"switchover-ack", "return-path", "Capability 'switchover-ack' requires capability 'return-path'"},
	} {
		if caps[c.one] && !caps[c.needs] {
			return qmp.Errorf("%s", c.text)
		}
	}
	if caps["zero-copy-send"] && (!caps["multifd"] || caps["xbzrle"]) {
		return qmp.Errorf("Zero copy only available for non-compressed non-TLS multifd migration")
	}
	if caps["dirty-limit"] {
		return qmp.Errorf("dirty-limit requires KVM with accelerator property 'dirty-ring-size' set")
	}
	for name, on := range caps {
		if on && slices.Contains(notHere, name) {
			return qmp.Errorf("Capability '%s' is not available: this guest is only memory, and goes to and comes from files", name)
		}
	}
	return nil
}
