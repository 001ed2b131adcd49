// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"maps"
	"slices"

	"github.com/ramjet-vm/ramjet/qmp"
)

// capabilityNames are the capabilities of QEMU 10, in its order (MigrationCapability).
var capabilityNames = []string{
	"xbzrle", "rdma-pin-all", "auto-converge", "zero-blocks", "events", "postcopy-ram", "x-colo", "release-ram",
	"return-path", "pause-before-switchover", "multifd", "dirty-bitmaps", "postcopy-blocktime", "late-block-activate",
	"x-ignore-shared", "validate-uuid", "background-snapshot", "zero-copy-send", "postcopy-preempt", "switchover-ack",
	"dirty-limit", "mapped-ram",
}

// Capability is the name of a capability.
type Capability string

// Values lists all names.
func (Capability) Values() []string { return capabilityNames }

// CapabilityStatus is an element of query-migrate-capabilities and migrate-set-capabilities.
type CapabilityStatus struct {
	Name  Capability `json:"capability"`
	State bool       `json:"state"`
}

// Capabilities holds which capabilities are on.
type Capabilities map[string]bool

// List is the answer to query-migrate-capabilities.
func (c Capabilities) List() []CapabilityStatus {
	list := make([]CapabilityStatus, len(capabilityNames))
	for i, name := range capabilityNames {
		list[i] = CapabilityStatus{Capability(name), c[name]}
	}
	return list
}

// With returns a copy of c, changed as list says.
func (c Capabilities) With(list []CapabilityStatus) Capabilities {
	changed := Capabilities{}
	maps.Copy(changed, c)
	for _, s := range list {
		changed[string(s.Name)] = s.State
	}
	return changed
}

// Settings are the settings that come from capabilities.
func (c Capabilities) Settings() Settings {
	return Settings{
		Events: c["events"], MappedRAM: c["mapped-ram"], Multifd: c["multifd"], IgnoreShared: c["x-ignore-shared"],
		UUID: c["validate-uuid"], Pause: c["pause-before-switchover"],
	}
}

// exclusion is a combination that QEMU refuses.
type exclusion struct{ one, other, text string }

// exclusions are all such combinations, in the order of QEMU's migrate_caps_check.
var exclusions = slices.Concat([]exclusion{
	{"postcopy-ram", "x-ignore-shared", "Postcopy is not compatible with ignore-shared"},
	{"postcopy-ram", "multifd", "Postcopy is not yet compatible with multifd"},
}, snapshotExclusions(), []exclusion{
	{"multifd", "xbzrle", "Multifd is not compatible with xbzrle"},
	{"mapped-ram", "xbzrle", "Mapped-ram migration is incompatible with xbzrle"},
	{"mapped-ram", "postcopy-ram", "Mapped-ram migration is incompatible with postcopy"},
})

// snapshotExclusions are those of background-snapshot (check_caps_background_snapshot).
func snapshotExclusions() (list []exclusion) {
	for _, name := range []string{"postcopy-ram", "dirty-bitmaps", "postcopy-blocktime", "late-block-activate", "return-path", "multifd",
		"pause-before-switchover", "auto-converge", "release-ram", "rdma-pin-all", "xbzrle", "x-colo", "validate-uuid", "zero-copy-send"} {
		list = append(list, exclusion{"background-snapshot", name, "Background-snapshot is not compatible with " + name})
	}
	return list
}

// Check refuses combinations of capabilities, as migrate_caps_check does on a machine without KVM's dirty ring.
func (c Capabilities) Check() error {
	for _, e := range exclusions {
		if c[e.one] && c[e.other] {
			return qmp.Errorf("%s", e.text)
		}
	}
	switch {
	case c["postcopy-preempt"] && !c["postcopy-ram"]:
		return qmp.Errorf("Postcopy preempt requires postcopy-ram")
	case c["switchover-ack"] && !c["return-path"]:
		return qmp.Errorf("Capability 'switchover-ack' requires capability 'return-path'")
	case c["zero-copy-send"] && (!c["multifd"] || c["xbzrle"]):
		return qmp.Errorf("Zero copy only available for non-compressed non-TLS multifd migration")
	case c["dirty-limit"]:
		return qmp.Errorf("dirty-limit requires KVM with accelerator property 'dirty-ring-size' set")
	}
	return nil
}
