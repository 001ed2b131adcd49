// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestQuick measures everything once, so that no row rots. It looks at no figures but those that cannot be wrong on a busy machine.
func TestQuick(t *testing.T) {
	vm.Need(t)
	program, err := vm.BuildRamjet(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(context.Background(), Config{
		Program: program, Dir: t.TempDir(), Memory: QuickMemory, Fill: QuickFill, Rounds: 1, Quick: true, Log: func(s string) { t.Log(s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.Rows {
		other := strings.HasPrefix(row.Name, "libvirt") || strings.HasSuffix(row.Name, "fio") // programs that need not be here
		switch {
		case row.Error != "" && other:
			t.Logf("%s: %s", row.Name, row.Error)
		case row.Error != "":
			t.Errorf("%s: %s", row.Name, row.Error)
		case len(row.Samples) != 1 || row.Samples[0].Total <= 0:
			t.Errorf("%s: %+v", row.Name, row.Samples)
		}
	}
	for _, x := range r.Ratios {
		if strings.Contains(x.What, "resident") && !x.Holds {
			t.Errorf("%s: %.3f %s", x.What, x.Value, x.Unit)
		}
	}
	if d := xml.NewDecoder(strings.NewReader(r.SVG())); true {
		for err = nil; err == nil; {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("the plot is no XML: %v", err)
		}
	}
	t.Logf("\n%s", r.Table())
}
