// SPDX-License-Identifier: Apache-2.0

package image

import (
	"runtime/debug"
)

// Version is Ramjet's own, Commit the source's and CommitTime that one's (RFC 3339), all set by the build (-ldflags -X).
var (
	Version    = ""
	Commit     = ""
	CommitTime = ""
)

// VersionString is Version or, in a build without one, what the Go tool knows of it.
func VersionString() string {
	if Version != "" {
		return Version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}
