// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"errors"
	"strings"
	"testing"
)

func TestExpandConfig(t *testing.T) {
	files := map[string]string{
		"/dir/vm.cfg": "# a comment\n\n[machine]\n  type = \"q35\"\n[memory]\n  size = \"1G\"\n[object \"m\"]\n  qom-type = \"memory-backend-ram\"\n  size = \"1G\"\n" +
			"[drive \"a,b\"]\n\tfile = \"x,y\"\n[smp-opts]\n  cpus = \"2\"\n",
		"/abs": "[nonsense]\n", "/key": "key = \"x\"\n", "/text": "[mon]\nmode=control\n", "/long": strings.Repeat("#", maxConfig+1),
	}
	read := func(path string) ([]byte, error) {
		text, ok := files[path]
		if !ok {
			return nil, errors.New("no such file")
		}
		return []byte(text), nil
	}
	for _, c := range []struct{ args, want string }{
		{"-S -readconfig vm.cfg -m 2G", "-S -machine type=q35 -m size=1G -object id=m,qom-type=memory-backend-ram,size=1G -drive id=a,,b,file=x,,y -smp cpus=2 -m 2G"},
		{"-m 2G", "-m 2G"},
		{"-readconfig /abs", "-readconfig /abs cannot be read: line 1: the group [nonsense]"},
		{"-readconfig /key", "line 1: it is neither"},
		{"-readconfig /text", "line 2: it is neither"},
		{"-readconfig /long", "more than"},
		{"-readconfig gone", "-readconfig /dir/gone cannot be read: no such file"},
	} {
		args, err := ParseArgs(strings.Fields(c.args)).ExpandConfig("/dir", read)
		if got := strings.Join(args.Words(), " "); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v\nwant %s", c.args, got, err, c.want)
		}
	}
}

// FuzzExpandConfig: a file may be anything.
func FuzzExpandConfig(f *testing.F) {
	f.Add("[object \"m\"]\n  qom-type = \"memory-backend-ram\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		args, err := parseConfig(text)
		if err == nil && len(ParseArgs(args.Words())) != len(args) {
			t.Errorf("%q becomes %q", text, args.Words())
		}
	})
}
