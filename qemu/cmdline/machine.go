// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"fmt"
	"strings"
)

// PinMachine returns args with the machine type of an image in the place of none, or of an alias: "q35" is pc-q35-10.0
// for one QEMU and pc-q35-11.1 for another, and the state of one cannot be loaded into the other. A different type is
// an error. If machine is empty, since the image does not record it, args are returned as they are.
func (args Args) PinMachine(machine string) (Args, error) {
	at := -1 // the last option that names a type
	for i, a := range args {
		if (a.Name == "machine" || a.Name == "M") && ParseProperties(a.Value, "type").Get("type") != "" {
			at = i
		}
	}
	if machine == "" {
		return args, nil
	}
	if at < 0 {
		return args.With("machine", "type="+machine), nil
	}
	p := ParseProperties(args[at].Value, "type")
	named := p.Get("type")
	if family := machineFamily(named); named != machine && family != "" && family != machineFamily(machine) {
		return nil, fmt.Errorf("the image is of a machine %s, this command line asks for %s: use -machine %s", machine, named, machine)
	}
	if named != machine && machineVersion(named) {
		return nil, fmt.Errorf("the image is of a machine %s, this command line asks for %s: use -machine %s", machine, named, machine)
	}
	if named == machine || machineFamily(named) == "" {
		return args, nil
	}
	p.Set("type", machine)
	out := append(Args{}, args...)
	out[at].Value = p.String("type")
	return out, nil
}

// machineFamily is the name that all versions of a machine type have in common; "" for a type that is not known here.
func machineFamily(machine string) string {
	switch {
	case machine == "q35", machine == "ubuntu-q35", strings.HasPrefix(machine, "pc-q35-"):
		return "pc-q35"
	case machine == "pc", machine == "ubuntu", strings.HasPrefix(machine, "pc-i440fx-"):
		return "pc-i440fx"
	case machine == "isapc", machine == "microvm":
		return machine
	}
	return ""
}

// machineVersion reports whether a type has a version, and so is no alias.
func machineVersion(machine string) bool {
	return strings.HasPrefix(machine, "pc-q35-") || strings.HasPrefix(machine, "pc-i440fx-")
}
