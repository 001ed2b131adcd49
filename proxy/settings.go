// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

// settings asks QEMU for its capabilities and parameters. A QEMU before 9.0 has fewer of them.
func (p *Proxy) settings(ctx context.Context) (migration.Settings, error) {
	var caps []migration.CapabilityStatus
	if err := p.vm.QMP.Execute(ctx, "query-migrate-capabilities", nil, &caps); err != nil {
		return migration.Settings{}, err
	}
	var params struct {
		Channels    int    `json:"multifd-channels"`
		DirectIO    bool   `json:"direct-io"`
		Bandwidth   uint64 `json:"max-bandwidth"`
		ZeroPages   string `json:"zero-page-detection"`
		Compression string `json:"multifd-compression"`
		TLS         string `json:"tls-creds"`
		Mode        string `json:"mode"`
	}
	if err := p.vm.QMP.Execute(ctx, "query-migrate-parameters", nil, &params); err != nil {
		return migration.Settings{}, err
	}
	s := migration.Capabilities{}.With(caps).Settings()
	s.MappedRAM = s.MappedRAM && (params.Mode == "normal" || params.Mode == "")
	s.Channels, s.DirectIO, s.MaxBandwidth = params.Channels, params.DirectIO, params.Bandwidth
	s.ZeroPages, s.Compression, s.TLS = params.ZeroPages, params.Compression, params.TLS != ""
	return s, nil
}

func (p *Proxy) setCapabilities(ctx context.Context, r *qmp.Request) (any, error) {
	if p.out.Active() {
		return nil, qmp.Errorf("There's a migration process in progress")
	}
	return p.forward(ctx, r)
}

// setParameters sets QEMU's parameters, those of a migration that is under way too.
func (p *Proxy) setParameters(ctx context.Context, r *qmp.Request) (any, error) {
	answer, err := p.changeParameters(ctx, r)
	if err == nil {
		err = p.applyParameters(ctx)
	}
	return answer, err
}

// applyParameters applies QEMU's parameters to a migration that the proxy has under way.
func (p *Proxy) applyParameters(ctx context.Context) error {
	if !p.out.Active() {
		return nil
	}
	s, err := p.settings(ctx)
	if err == nil {
		p.out.Change(s)
	}
	return err
}

// changeParameters forwards a change of parameters. While compression or TLS is on together with mapped-ram, QEMU
// refuses every change, even the one that switches compression or TLS off (migrate_params_check looks at the values
// before the change). Such a change is made with mapped-ram off.
func (p *Proxy) changeParameters(ctx context.Context, r *qmp.Request) (any, error) {
	args := r.Arguments()
	answer, err := p.forward(ctx, r)
	var e *qmp.Error
	var asked struct {
		Compression *string `json:"multifd-compression"`
		TLS         *string `json:"tls-creds"`
	}
	if !errors.As(err, &e) || e.Desc != migration.OnlyPlainPages || json.Unmarshal(args, &asked) != nil {
		return answer, err
	}
	s, serr := p.settings(ctx)
	compressed := s.Compression != "none" && (asked.Compression == nil || *asked.Compression != "none")
	encrypted := s.TLS && (asked.TLS == nil || *asked.TLS != "")
	if serr != nil || compressed || encrypted {
		return nil, err
	}
	if err := p.setMappedRAM(ctx, false); err != nil {
		return nil, err
	}
	err = p.vm.QMP.Execute(ctx, "migrate-set-parameters", args, nil)
	return nil, errors.Join(err, p.setMappedRAM(ctx, true))
}

func (p *Proxy) setMappedRAM(ctx context.Context, on bool) error {
	list := []migration.CapabilityStatus{{Name: "mapped-ram", State: on}}
	return p.vm.QMP.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": list}, nil)
}
