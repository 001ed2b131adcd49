// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"

	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

func (m *Monitor) addFD(_ context.Context, r *qmp.Request) (any, error) {
	var args migration.AddFD
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	f, err := r.TakeFile()
	if err != nil {
		return nil, err
	}
	return m.sets.Add(f, args.Set, args.Opaque)
}

func (m *Monitor) removeFD(_ context.Context, r *qmp.Request) (any, error) {
	var args struct {
		Set int64  `json:"fdset-id"`
		FD  *int64 `json:"fd,omitempty"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	return nil, m.sets.Remove(args.Set, args.FD)
}

func (m *Monitor) queryFDSets(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	return m.sets.Query(), nil
}

// maxNamed is how many named descriptors the monitor keeps.
const maxNamed = 1024

// getFD keeps a descriptor under a name. No command here uses such a descriptor, but some clients pass one in advance.
func (m *Monitor) getFD(_ context.Context, r *qmp.Request) (any, error) {
	var args migration.GetFD
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	f, err := r.TakeFile()
	if err != nil {
		return nil, err
	}
	if args.Name != "" && args.Name[0] >= '0' && args.Name[0] <= '9' {
		f.Close()
		return nil, qmp.Errorf("Parameter 'fdname' expects a name not starting with a digit")
	}
	old, replaced := m.named[args.Name]
	if !replaced && len(m.named) == maxNamed {
		f.Close()
		return nil, qmp.Errorf("%d descriptors have names already: close some with closefd", maxNamed)
	}
	if replaced {
		old.Close()
	}
	m.named[args.Name] = f
	return nil, nil
}

func (m *Monitor) closeFD(_ context.Context, r *qmp.Request) (any, error) {
	var args migration.GetFD
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	f, ok := m.named[args.Name]
	if !ok {
		return nil, qmp.Errorf("File descriptor named '%s' not found", args.Name)
	}
	delete(m.named, args.Name)
	f.Close()
	return nil, nil
}
