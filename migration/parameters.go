// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"reflect"

	"github.com/ramjet-vm/ramjet/qmp"
)

// Parameters are the MigrationParameters of QEMU 10, in its order. Only those that concern a migration to a file have
// an effect; the others can be set and queried. A nil pointer is a parameter that is not given. In TLS parameters null
// means the empty string.
type Parameters struct {
	AnnounceInitial   *uint64        `json:"announce-initial"`
	AnnounceMax       *uint64        `json:"announce-max"`
	AnnounceRounds    *uint64        `json:"announce-rounds"`
	AnnounceStep      *uint64        `json:"announce-step"`
	ThrottleThreshold *uint8         `json:"throttle-trigger-threshold"`
	ThrottleInitial   *uint8         `json:"cpu-throttle-initial"`
	ThrottleIncrement *uint8         `json:"cpu-throttle-increment"`
	ThrottleTailslow  *bool          `json:"cpu-throttle-tailslow"`
	TLSCreds          *qmp.StrOrNull `json:"tls-creds"`
	TLSHostname       *qmp.StrOrNull `json:"tls-hostname"`
	TLSAuthz          *qmp.StrOrNull `json:"tls-authz"`
	MaxBandwidth      *uint64        `json:"max-bandwidth"`
	AvailSwitchover   *uint64        `json:"avail-switchover-bandwidth"`
	DowntimeLimit     *uint64        `json:"downtime-limit"`
	CheckpointDelay   *uint32        `json:"x-checkpoint-delay"`
	Channels          *uint8         `json:"multifd-channels"`
	XbzrleCacheSize   *uint64        `json:"xbzrle-cache-size"`
	MaxPostcopyBW     *uint64        `json:"max-postcopy-bandwidth"`
	MaxThrottle       *uint8         `json:"max-cpu-throttle"`
	Compression       *compression   `json:"multifd-compression"`
	ZlibLevel         *uint8         `json:"multifd-zlib-level"`
	QatzipLevel       *uint8         `json:"multifd-qatzip-level"`
	ZstdLevel         *uint8         `json:"multifd-zstd-level"`
	VCPUDirtyPeriod   *uint64        `json:"x-vcpu-dirty-limit-period"`
	VCPUDirtyLimit    *uint64        `json:"vcpu-dirty-limit"`
	Mode              *mode          `json:"mode"`
	ZeroPageDetection *zeroPages     `json:"zero-page-detection"`
	DirectIO          *bool          `json:"direct-io"`
}

type compression string

func (compression) Values() []string { return []string{"none", "zlib", "zstd"} }

type mode string

func (mode) Values() []string { return []string{"normal", "cpr-reboot", "cpr-transfer"} }

type zeroPages string

func (zeroPages) Values() []string { return []string{"none", "legacy", "multifd"} }

func ptr[T any](v T) *T { return &v }

// streams reports whether p asks for compression or encryption, which only a stream can have.
func (p *Parameters) streams() bool { return *p.Compression != "none" || p.TLSCreds.String != "" }

// With returns p changed by those of args that are given. The error is QEMU's for a value that is refused
// (migrate_params_check); mapped says that the capability mapped-ram is on.
func (p Parameters) With(args Parameters, mapped bool) (Parameters, error) {
	next := p
	from, to := reflect.ValueOf(args), reflect.ValueOf(&next).Elem()
	for i := range from.NumField() {
		if f := from.Field(i); !f.IsNil() {
			to.Field(i).Set(f)
		}
	}
	switch {
	case *next.Channels < 1:
		return p, qmp.Errorf("Parameter 'multifd_channels' expects a value between 1 and 255")
	case *next.DowntimeLimit > 2_000_000:
		return p, qmp.Errorf("Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms")
	case *next.Mode != "normal":
		return p, qmp.Errorf("migration mode %s is not available: it keeps memory over a restart of QEMU, and there is none here", *next.Mode)
	case mapped && p.streams() && next.streams():
		// QEMU looks only at the values before the change, so that it allows no further change once compression is on.
		return p, qmp.Errorf(OnlyPlainPages)
	}
	return next, nil
}

// OnlyPlainPages is QEMU's error for parameters that ask for compression or encryption together with mapped-ram.
const OnlyPlainPages = "Mapped-ram only available for non-compressed non-TLS multifd migration"

// Values is the answer to query-migrate-parameters.
func (p Parameters) Values() map[string]any {
	values := map[string]any{}
	v := reflect.ValueOf(p)
	for i := range v.NumField() {
		value := v.Field(i).Elem().Interface()
		if s, ok := value.(qmp.StrOrNull); ok {
			value = s.String
		}
		values[v.Type().Field(i).Tag.Get("json")] = value
	}
	return values
}

// DefaultParameters are those of QEMU 10.
func DefaultParameters() Parameters {
	return Parameters{
		AnnounceInitial: ptr[uint64](50), AnnounceMax: ptr[uint64](550), AnnounceRounds: ptr[uint64](5), AnnounceStep: ptr[uint64](100),
		ThrottleThreshold: ptr[uint8](50), ThrottleInitial: ptr[uint8](20), ThrottleIncrement: ptr[uint8](10), ThrottleTailslow: ptr(false),
		TLSCreds: ptr(qmp.StrOrNull{}), TLSHostname: ptr(qmp.StrOrNull{}), TLSAuthz: ptr(qmp.StrOrNull{}),
		MaxBandwidth: ptr[uint64](128 << 20), AvailSwitchover: ptr[uint64](0), DowntimeLimit: ptr[uint64](300), CheckpointDelay: ptr[uint32](20000),
		Channels: ptr[uint8](2), XbzrleCacheSize: ptr[uint64](64 << 20), MaxPostcopyBW: ptr[uint64](0), MaxThrottle: ptr[uint8](99),
		Compression: ptr[compression]("none"), ZlibLevel: ptr[uint8](1), QatzipLevel: ptr[uint8](1), ZstdLevel: ptr[uint8](1),
		VCPUDirtyPeriod: ptr[uint64](1000), VCPUDirtyLimit: ptr[uint64](1), Mode: ptr[mode]("normal"),
		ZeroPageDetection: ptr[zeroPages]("multifd"), DirectIO: ptr(false),
	}
}
