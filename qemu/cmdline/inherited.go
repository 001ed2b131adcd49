// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"fmt"
	"slices"
	"strings"
)

// RefuseInherited refuses options with the number of a descriptor that the saved VM's QEMU had inherited. A QEMU that
// is started for a restore inherits Ramjet's descriptors only, and the number could be that of one of these.
func (args Args) RefuseInherited() error {
	for _, a := range args {
		if a.inherits() {
			return fmt.Errorf("%s uses a descriptor that was inherited, and Ramjet hands none on to QEMU: give QEMU's arguments after --, with a path, an interface or an address instead",
				strings.Join(Args{a}.Words(), " "))
		}
	}
	return nil
}

// takeDescriptors are the options of which a property can be a descriptor.
var takeDescriptors = []string{"add-fd", "netdev", "net", "nic", "device", "chardev", "object", "fsdev", "virtfs", "blockdev", "drive"}

// descriptorKeys are the names of such properties.
var descriptorKeys = []string{"fd", "fds", "vhostfd", "vhostfds", "sock_fd"}

var descriptorPath = Lazily(`^(/dev/fd/|/proc/self/fd/|/dev/fdset/)\d+$`)

func (a Arg) inherits() bool {
	if !slices.Contains(takeDescriptors, a.Name) {
		return a.HasValue && descriptorPath().MatchString(a.Value)
	}
	if tree, ok := parseObject(a.Value); ok {
		return treeInherits(tree)
	}
	p := ParseProperties(a.Value, "")
	for key, value := range p.All() {
		last := key[strings.LastIndexByte(key, '.')+1:]
		switch {
		case slices.Contains(descriptorKeys, last) && value != "", descriptorPath().MatchString(value):
			return true
		case last == "type" && value == "fd" && p.Get(strings.TrimSuffix(key, "type")+"str") != "":
			return true // a SocketAddress
		}
	}
	return false
}

// treeInherits looks through an option that is JSON.
func treeInherits(v any) bool {
	switch v := v.(type) {
	case string:
		return descriptorPath().MatchString(v)
	case []any:
		return slices.ContainsFunc(v, treeInherits)
	case map[string]any:
		if v["type"] == "fd" && v["str"] != nil {
			return true
		}
		for key, e := range v {
			if slices.Contains(descriptorKeys, key) || treeInherits(e) {
				return true
			}
		}
	}
	return false
}
