// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"strings"
)

// WaitsForClient reports whether QEMU waits for a client of one of its sockets before it sets the machine up: character
// devices that are servers do so by default (wait=on).
func (args Args) WaitsForClient() bool {
	for _, a := range args {
		var p Properties
		switch a.Name {
		case "qmp", "qmp-pretty", "monitor", "serial", "parallel", "debugcon":
			_, rest, _ := strings.Cut(strings.TrimPrefix(a.Value, "mon:"), ":")
			p = ParseProperties(rest, "path")
		case "chardev":
			p = ParseProperties(a.Value, "backend")
		}
		if isOn(p, "server") && (p.Get("wait") == "" || isOn(p, "wait")) {
			return true
		}
	}
	return false
}

// ClientSockets are the paths of Unix sockets that character devices connect to.
func (args Args) ClientSockets() (paths []string) {
	for _, a := range args {
		if a.Name != "chardev" {
			continue
		}
		p := ParseProperties(a.Value, "backend")
		if p.Get("backend") == "socket" && !isOn(p, "server") && p.Get("path") != "" {
			paths = append(paths, p.Get("path"))
		}
	}
	return paths
}
