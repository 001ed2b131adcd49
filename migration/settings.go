// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"math"

	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Settings are the capabilities and parameters that a migration uses.
type Settings struct {
	Events       bool // emit MIGRATION events
	MappedRAM    bool
	Multifd      bool
	IgnoreShared bool
	Channels     int    // with Multifd
	DirectIO     bool   // as set; without mapped-ram and multifd it has no effect
	MaxBandwidth uint64 // bytes a second; 0: no limit
	ZeroPages    string // none: count pages of zeros as written
	Compression  string // none unless it was set
	TLS          bool
	UUID         bool // validate-uuid
	Pause        bool // pause-before-switchover: wait for migrate-continue when the guest has been stopped
}

// WithParameters returns s with the settings that come from parameters.
func (s Settings) WithParameters(p Parameters) Settings {
	s.Channels, s.DirectIO, s.MaxBandwidth = int(*p.Channels), *p.DirectIO, *p.MaxBandwidth
	s.ZeroPages, s.Compression, s.TLS = string(*p.ZeroPageDetection), string(*p.Compression), p.TLSCreds.String != ""
	return s
}

// Direct reports whether page data bypasses the page cache (QEMU migrate_direct_io).
func (s Settings) Direct() bool { return s.DirectIO && s.MappedRAM && s.Multifd }

// PageChannels is the number of channels for page data besides the main channel.
func (s Settings) PageChannels() int {
	if s.Multifd {
		return s.Channels
	}
	return 0
}

// Need says what a migration with these settings opens of its descriptor set.
func (s Settings) Need(write bool) fdset.Need {
	return fdset.Need{Write: write, Channels: s.PageChannels(), Direct: s.Direct()}
}

// engine are the parameters of the engine that copies pages.
func (s Settings) engine() transfer.Params {
	return transfer.Params{Channels: max(s.PageChannels(), 1), Direct: s.Direct()}
}

// bandwidth is MaxBandwidth for the engine, where 0 is no limit. A limit that no disk reaches is none.
func (s Settings) bandwidth() int64 {
	if s.MaxBandwidth > math.MaxInt64 {
		return 0
	}
	return int64(s.MaxBandwidth)
}

// Suits refuses an address that a guest with these settings cannot migrate to or from (QEMU's
// migration_channels_and_transport_compatible), and every address that is not a file.
func (s Settings) Suits(a Address) error {
	switch {
	case s.MappedRAM && a.Transport != "file":
		return qmp.Errorf("Migration requires seekable transport (e.g. file)")
	case s.Multifd && a.Transport == "file" && !s.MappedRAM:
		return qmp.Errorf("Migration requires multi-channel URIs (e.g. tcp)")
	case a.Transport != "file":
		return qmp.Errorf("this guest goes to and comes from files: use file:/dev/fdset/N")
	}
	return nil
}

// Ready refuses settings that a migration to a file cannot have.
func (s Settings) Ready() error {
	switch {
	case s.MappedRAM && s.TLS:
		return qmp.Errorf("Cannot use TLS with mapped-ram")
	case s.MappedRAM && s.Compression != "none":
		return qmp.Errorf("Cannot use compression with mapped-ram")
	case s.TLS:
		return qmp.Errorf("a file cannot be encrypted: set tls-creds to \"\"")
	}
	return nil
}
