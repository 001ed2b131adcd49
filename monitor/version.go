// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"

	"github.com/ramjet-vm/ramjet/qmp"
)

// Greeting is what clients are told: the QEMU whose commands and texts these are.
func Greeting(ramjetVersion string) qmp.Greeting {
	return qmp.Greeting{Major: 10, Package: "ramjet " + ramjetVersion}
}

// QueryVersion is the command query-version of a monitor with this greeting.
func QueryVersion(g qmp.Greeting) qmp.Command {
	return qmp.Command{Run: func(_ context.Context, r *qmp.Request) (any, error) { return g.Version(), r.Args(nil) }}
}
