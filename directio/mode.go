// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"fmt"
	"strings"
)

// Mode says how page data is to reach a file.
type Mode int

// Auto decides by the file and the machine (Chooser), On insists on direct I/O, Off never takes it.
const (
	Auto Mode = iota
	On
	Off
)

var modeNames = []string{"auto", "on", "off"}

func (m Mode) String() string { return modeNames[m] }

// Set makes a Mode usable as a command-line flag.
func (m *Mode) Set(s string) error {
	for i, n := range modeNames {
		if s == n {
			*m = Mode(i)
			return nil
		}
	}
	return fmt.Errorf("%q is not one of %s", s, strings.Join(modeNames, ", "))
}

// Type names the flag's values in help texts.
func (m *Mode) Type() string { return "auto|on|off" }
