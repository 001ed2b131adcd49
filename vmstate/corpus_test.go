// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/fuzz anew")

// TestCorpus holds the fuzzer's corpus in testdata to the cases in code, so that each is in the repository by name.
func TestCorpus(t *testing.T) {
	for _, c := range badHeaders {
		corpus(t, "FuzzReadHeader", c.name, []byte(c.text))
	}
	for _, c := range badTails {
		corpus(t, "FuzzParseTail", c.name, c.tail)
	}
}

func corpus(t *testing.T, target, name string, data []byte) {
	t.Helper()
	path := filepath.Join("testdata", "fuzz", target, name)
	want := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", data)
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(want), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is not as in code (%v); go test -update writes it", path, err)
	}
}
