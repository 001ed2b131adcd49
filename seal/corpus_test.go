// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/fuzz anew")

// TestCorpus holds the fuzzer's corpus in testdata to the cases in code, so that each is in the repository by name.
func TestCorpus(t *testing.T) {
	for _, c := range hostile {
		name := filepath.Join("testdata", "fuzz", "FuzzOpen", c.name)
		want := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", c.file)
		if *update {
			check(t, os.MkdirAll(filepath.Dir(name), 0o777))
			check(t, os.WriteFile(name, []byte(want), 0o666))
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s is not as in code (%v); go test -update writes it", name, err)
		}
	}
}
