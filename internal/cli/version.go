// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/snapshot"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  ramjet version --json",
		Args:    exactly(0),
		RunE: func(*cobra.Command, []string) error {
			v := snapshot.VersionString()
			return a.print(map[string]string{"version": v, "go": runtime.Version()}, fmt.Sprintf("ramjet %s (%s)\n", v, runtime.Version()))
		},
	}
}
