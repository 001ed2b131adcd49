// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"strings"
	"testing"
)

func TestSet(t *testing.T) {
	const line = "-m 1G -netdev user,id=n0,hostfwd=tcp::2222-:22,hostfwd=udp::1-:1 -netdev user,id=n.1 -device a,id=d -device b -serial stdio -S"
	for _, c := range []struct{ setting, want string }{
		{"m=2G", "-m 2G"},
		{"-m=2G", "-m 2G"},
		{"m.maxmem=4G", "-m 1G,maxmem=4G"},
		{"serial=file:/tmp/{n}", "-serial file:/tmp/{n}"},
		{"name=x", "-S -name x"},
		{"netdev=user,id=n0,hostfwd=tcp::222{n}-:22", "-netdev user,id=n0,hostfwd=tcp::222{n}-:22 -netdev user,id=n.1"},
		{"netdev.n0.hostfwd=tcp::222{n}-:22", "-netdev user,id=n0,hostfwd=tcp::222{n}-:22 -netdev user,id=n.1"},
		{"netdev.n.1.net=10.0.0.0/8", "-netdev user,id=n.1,net=10.0.0.0/8"},
		{"device.d.addr=2", "-device a,id=d,addr=2"},
		{"netdev=user", "name one by its id"},
		{"netdev.hostfwd=x", "has 2 -netdev (user,id=n0"},
		{"device.x.addr=2", "has 2 -device"},
		{"netdev=user,id=n7", "no -netdev has the id n7"},
		{"vnc.to=9", "has no -vnc"},
		{"m", "is none of OPTION=VALUE"}, {"=x", "is none of"}, {"m.=x", "is none of"},
	} {
		args := ParseArgs(strings.Fields(line))
		out, err := args.Set(c.setting)
		if got := strings.Join(out.Words(), " "); err == nil && !strings.Contains(got+" ", c.want) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v\nwant %s", c.setting, got, err, c.want)
		}
		if got := strings.Join(args.Words(), " "); got != line {
			t.Errorf("%s changed its argument to %s", c.setting, got)
		}
	}
}
