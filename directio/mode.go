// SPDX-License-Identifier: Apache-2.0

package directio

// Mode says how page data is to reach a file.
type Mode int

// Auto decides by the file and the machine (Chooser), On insists on direct I/O, Off never takes it.
const (
	Auto Mode = iota
	On
	Off
)

func (m Mode) String() string { return [...]string{"auto", "on", "off"}[m] }
