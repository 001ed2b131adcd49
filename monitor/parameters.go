// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"math"
	"reflect"

	"github.com/ramjet-vm/ramjet/qmp"
)

// parameters are QEMU 10's MigrationParameters, in its order. Only those that a migration to a file knows have a
// meaning; the others can be set and asked for.
type parameters struct {
	AnnounceInitial   *uint64      `json:"announce-initial"`
	AnnounceMax       *uint64      `json:"announce-max"`
	AnnounceRounds    *uint64      `json:"announce-rounds"`
	AnnounceStep      *uint64      `json:"announce-step"`
	ThrottleThreshold *uint8       `json:"throttle-trigger-threshold"`
	ThrottleInitial   *uint8       `json:"cpu-throttle-initial"`
	ThrottleIncrement *uint8       `json:"cpu-throttle-increment"`
	ThrottleTailslow  *bool        `json:"cpu-throttle-tailslow"`
	TLSCreds          *tlsString   `json:"tls-creds"`
	TLSHostname       *tlsString   `json:"tls-hostname"`
	TLSAuthz          *tlsString   `json:"tls-authz"`
	MaxBandwidth      *uint64      `json:"max-bandwidth"`
	AvailSwitchover   *uint64      `json:"avail-switchover-bandwidth"`
	DowntimeLimit     *uint64      `json:"downtime-limit"`
	CheckpointDelay   *uint32      `json:"x-checkpoint-delay"`
	Channels          *uint8       `json:"multifd-channels"`
	XbzrleCacheSize   *uint64      `json:"xbzrle-cache-size"`
	MaxPostcopyBW     *uint64      `json:"max-postcopy-bandwidth"`
	MaxThrottle       *uint8       `json:"max-cpu-throttle"`
	Compression       *compression `json:"multifd-compression"`
	ZlibLevel         *uint8       `json:"multifd-zlib-level"`
	QatzipLevel       *uint8       `json:"multifd-qatzip-level"`
	ZstdLevel         *uint8       `json:"multifd-zstd-level"`
	VCPUDirtyPeriod   *uint64      `json:"x-vcpu-dirty-limit-period"`
	VCPUDirtyLimit    *uint64      `json:"vcpu-dirty-limit"`
	Mode              *mode        `json:"mode"`
	ZeroPageDetection *zeroPages   `json:"zero-page-detection"`
	DirectIO          *bool        `json:"direct-io"`
}

// tlsString is a StrOrNull whose null is the empty string.
type tlsString = qmp.StrOrNull

type compression string

func (compression) Values() []string { return []string{"none", "zlib", "zstd"} }

type mode string

func (mode) Values() []string { return []string{"normal", "cpr-reboot", "cpr-transfer"} }

type zeroPages string

func (zeroPages) Values() []string { return []string{"none", "legacy", "multifd"} }

// settings are capabilities and parameters.
type settings struct {
	caps   map[string]bool
	params parameters
}

func ptr[T any](v T) *T { return &v }

// defaultSettings are QEMU 10's.
func defaultSettings() settings {
	return settings{caps: map[string]bool{}, params: parameters{
		AnnounceInitial: ptr[uint64](50), AnnounceMax: ptr[uint64](550), AnnounceRounds: ptr[uint64](5), AnnounceStep: ptr[uint64](100),
		ThrottleThreshold: ptr[uint8](50), ThrottleInitial: ptr[uint8](20), ThrottleIncrement: ptr[uint8](10), ThrottleTailslow: ptr(false),
		TLSCreds: ptr(tlsString{}), TLSHostname: ptr(tlsString{}), TLSAuthz: ptr(tlsString{}),
		MaxBandwidth: ptr[uint64](128 << 20), AvailSwitchover: ptr[uint64](0), DowntimeLimit: ptr[uint64](300), CheckpointDelay: ptr[uint32](20000),
		Channels: ptr[uint8](2), XbzrleCacheSize: ptr[uint64](64 << 20), MaxPostcopyBW: ptr[uint64](0), MaxThrottle: ptr[uint8](99),
		Compression: ptr[compression]("none"), ZlibLevel: ptr[uint8](1), QatzipLevel: ptr[uint8](1), ZstdLevel: ptr[uint8](1),
		VCPUDirtyPeriod: ptr[uint64](1000), VCPUDirtyLimit: ptr[uint64](1), Mode: ptr[mode]("normal"),
		ZeroPageDetection: ptr[zeroPages]("multifd"), DirectIO: ptr(false),
	}}
}

func (m *Monitor) queryParameters(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]any{}
	v := reflect.ValueOf(m.settings.params)
	for i := range v.NumField() {
		value := v.Field(i).Elem().Interface()
		if s, ok := value.(tlsString); ok {
			value = s.String
		}
		out[v.Type().Field(i).Tag.Get("json")] = value
	}
	return out, nil
}

func (m *Monitor) setParameters(_ context.Context, r *qmp.Request) (any, error) {
	var args parameters
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	if err := m.changeParameters(args); err != nil {
		return nil, err
	}
	m.out.Change(m.current())
	return nil, nil
}

func (m *Monitor) changeParameters(args parameters) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.settings.params
	from, to := reflect.ValueOf(args), reflect.ValueOf(&next).Elem()
	for i := range from.NumField() {
		if f := from.Field(i); !f.IsNil() {
			to.Field(i).Set(f)
		}
	}
	if err := next.check(); err != nil {
		return err
	}
	// QEMU looks at the values before the change only, so that nothing can be changed any more once compression is on.
	if m.settings.caps["mapped-ram"] && m.settings.params.streams() && next.streams() {
		return qmp.Errorf("Mapped-ram only available for non-compressed non-TLS multifd migration")
	}
	m.settings.params = next
	return nil
}

// streams tells whether p wants what only a stream can be: compressed or encrypted.
func (p *parameters) streams() bool { return *p.Compression != "none" || p.TLSCreds.String != "" }

// check looks at the limits that migrate_params_check knows, in its order and with its names.
func (p *parameters) check() error {
	switch {
	case *p.Channels < 1:
		return qmp.Errorf("Parameter 'multifd_channels' expects a value between 1 and 255")
	case *p.DowntimeLimit > 2_000_000:
		return qmp.Errorf("Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms")
	case *p.Mode != "normal":
		return qmp.Errorf("migration mode %s is not available: it keeps memory over a restart of QEMU, and there is none here", *p.Mode)
	}
	return nil
}

// Settings are what a migration has to know of capabilities and parameters.
type Settings struct {
	Events       bool // say MIGRATION events
	MappedRAM    bool
	Multifd      bool
	IgnoreShared bool
	Channels     int    // with Multifd
	DirectIO     bool   // as set; without mapped-ram and multifd it has no effect
	MaxBandwidth uint64 // bytes a second; 0: no limit
	ZeroPages    string // none: write pages that are zero too
	Compression  string // none unless somebody has set it
	TLS          bool
	UUID         bool // validate-uuid
	Pause        bool // pause-before-switchover: wait for migrate-continue when the guest has been stopped
}

// Direct tells whether page data goes past the page cache (QEMU migrate_direct_io).
func (s Settings) Direct() bool { return s.DirectIO && s.MappedRAM && s.Multifd }

// bandwidth is MaxBandwidth as an engine takes it: one that no disk has is none.
func (s Settings) bandwidth() int64 {
	if s.MaxBandwidth > math.MaxInt64 {
		return 0
	}
	return int64(s.MaxBandwidth)
}

// PageChannels is the number of channels for page data besides the main channel.
func (s Settings) PageChannels() int {
	if s.Multifd {
		return s.Channels
	}
	return 0
}

func (m *Monitor) current() Settings {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, p := m.settings.caps, m.settings.params
	return Settings{
		Events: c["events"], MappedRAM: c["mapped-ram"], Multifd: c["multifd"], IgnoreShared: c["x-ignore-shared"],
		Channels: int(*p.Channels), DirectIO: *p.DirectIO, MaxBandwidth: *p.MaxBandwidth, ZeroPages: string(*p.ZeroPageDetection),
		Compression: string(*p.Compression), TLS: p.TLSCreds.String != "",
		Pause: c["pause-before-switchover"],
	}
}
