// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/directio"
)

// TestChoice has a flag take each of its words and nothing else.
func TestChoice(t *testing.T) {
	t.Parallel()
	c, mode := &cobra.Command{Use: "test"}, directio.On
	addDirectIO(c, &mode, "usage")
	f := c.Flags().Lookup("direct-io")
	if f.DefValue != "on" || f.Value.Type() != "auto|on|off" {
		t.Errorf("default %q, type %q", f.DefValue, f.Value.Type())
	}
	for want, s := range []string{"auto", "on", "off"} {
		if err := f.Value.Set(s); err != nil || mode != directio.Mode(want) || f.Value.String() != s {
			t.Errorf("%s is %v, %v", s, mode, err)
		}
	}
	if err := f.Value.Set("yes"); err == nil || !strings.Contains(err.Error(), `"yes" is not one of auto, on, off`) {
		t.Error(err)
	}
	if mode != directio.Off {
		t.Errorf("a refused word made it %v", mode)
	}
}
