// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/image"
)

// build is what `ramjet version --json` prints. What is not known is empty.
type build struct {
	Version    string `json:"version"`
	Commit     string `json:"commit"`
	CommitTime string `json:"commit_time"`
	Go         string `json:"go"`
	Platform   string `json:"platform"`
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Print the version, the commit that was built, and by what.",
		Example: "  ramjet version\n  ramjet version --json",
		Args:    exactly(0),
		RunE:    func(*cobra.Command, []string) error { return a.printVersion() },
	}
}

func (a *app) printVersion() error {
	b := buildInfo()
	return a.print(b, b.String())
}

func buildInfo() build {
	b := build{
		Version: image.VersionString(), Commit: image.Commit, CommitTime: image.CommitTime,
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || b.Commit != "" {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.CommitTime = s.Value
		}
	}
	return b
}

func (b build) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "ramjet %s\n", b.Version)
	if b.Commit != "" {
		fmt.Fprintf(&s, "commit %s of %s\n", b.Commit, b.CommitTime)
	}
	fmt.Fprintf(&s, "built by %s for %s\n", b.Go, b.Platform)
	return s.String()
}
