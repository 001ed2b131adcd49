// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"fmt"
	"slices"
	"strings"
)

// Set changes a command line by settings, each of which is one of
//
//	OPTION=VALUE               the only option of that name, or the one whose id VALUE has, gets another value; where there is none it is added
//	OPTION.PROPERTY=VALUE      a property of the only option of that name
//	OPTION.ID.PROPERTY=VALUE   a property of the option of that name and id, as with QEMU's -set
func (args Args) Set(settings ...string) (Args, error) {
	out := slices.Clone(args)
	for _, s := range settings {
		key, value, ok := strings.Cut(strings.TrimLeft(s, "-"), "=")
		option, rest, dotted := strings.Cut(key, ".")
		if !ok || option == "" || dotted && rest == "" {
			return nil, fmt.Errorf("--set %q is none of OPTION=VALUE, OPTION.PROPERTY=VALUE and OPTION.ID.PROPERTY=VALUE", s)
		}
		var err error
		if dotted {
			err = out.setProperty(option, rest, value)
		} else {
			out, err = out.setOption(option, value)
		}
		if err != nil {
			return nil, fmt.Errorf("--set %q: %w", s, err)
		}
	}
	return out, nil
}

// named are the indices of the options of a name.
func (args Args) named(option string) (list []int) {
	for i, a := range args {
		if a.Name == option {
			list = append(list, i)
		}
	}
	return list
}

// withID are the indices of those of list whose option has an id.
func (args Args) withID(list []int, id string) []int {
	return slices.DeleteFunc(slices.Clone(list), func(i int) bool { return ParseProperties(args[i].Value, "").Get("id") != id })
}

func (args Args) setOption(option, value string) (Args, error) {
	list := args.named(option)
	if len(list) == 0 {
		return args.With(option, value), nil
	}
	if id := ParseProperties(value, "").Get("id"); id != "" && len(list) > 1 {
		if list = args.withID(list, id); len(list) == 0 {
			return nil, fmt.Errorf("no -%s has the id %s", option, id)
		}
	}
	if len(list) > 1 {
		return nil, args.several(option, list)
	}
	args[list[0]].Value, args[list[0]].HasValue = value, true
	return args, nil
}

func (args Args) setProperty(option, key, value string) error {
	list := args.named(option)
	if len(list) == 0 {
		return fmt.Errorf("the command line has no -%s", option)
	}
	for _, i := range list {
		id := ParseProperties(args[i].Value, "").Get("id")
		if property, ok := strings.CutPrefix(key, id+"."); ok && id != "" && property != "" {
			list, key = []int{i}, property
			break
		}
	}
	if len(list) > 1 {
		return args.several(option, list)
	}
	a := &args[list[0]]
	implied := impliedKey[option]
	p := ParseProperties(a.Value, implied)
	p.Set(key, value)
	a.Value = p.String(implied)
	return nil
}

// several says that one of many options was not named.
func (args Args) several(option string, list []int) error {
	var values []string
	for _, i := range list {
		values = append(values, args[i].Value)
	}
	return fmt.Errorf("the command line has %d -%s (%s): name one by its id, as --set '%s.ID.PROPERTY=VALUE', or give the whole command line after --",
		len(list), option, strings.Join(values, "; "), option)
}

// impliedKey names the first part of an option's value where it needs no name (implied_opt_name in QEMU).
var impliedKey = map[string]string{
	"object": "qom-type", "device": "driver", "chardev": "backend", "netdev": "type", "nic": "type", "net": "type", "machine": "type", "M": "type",
	"blockdev": "driver", "m": "size", "smp": "cpus", "mon": "chardev", "vnc": "vnc", "display": "type", "audiodev": "driver", "accel": "accel",
	"fsdev": "fsdriver", "tpmdev": "type", "numa": "type", "smbios": "file", "name": "guest", "fw_cfg": "name", "cpu": "model",
}
