// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"encoding/binary"
	"fmt"

	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// A guest that is only memory has the devices of QEMU's machine "none", the least that any QEMU saves:
//
//	timer        version 2: be64 ticks, 8 bytes unused, be64 clock in nanoseconds (cpu-timers.c)
//	globalstate  version 1: the run state (vmstate.RunState)
const (
	timerName, timerVersion, timerID    = "timer", 2, 0
	globalName, globalVersion, globalID = "globalstate", 1, 3
)

// deviceSections makes the sections of a guest in this run state.
func deviceSections(state string) ([]byte, error) {
	b := vmstate.AppendSectionStart(nil, vmstate.TypeFull, timerID, timerName, 0, timerVersion)
	b = append(b, make([]byte, sectionSizes[timerName])...)
	b = vmstate.AppendFooter(b, timerID)
	b = vmstate.AppendSectionStart(b, vmstate.TypeFull, globalID, globalName, 0, globalVersion)
	global := make([]byte, sectionSizes[globalName])
	binary.BigEndian.PutUint32(global, 8)
	copy(global[4:], "running")
	global[36] = 1 // the next byte is valid: whether the guest had been suspended
	b = append(b, global...)
	b = vmstate.AppendFooter(b, globalID)
	return b, vmstate.SetRunState(b, state)
}

// loadSections returns the run state in sections. A section of a device that this guest does not have is an error.
func loadSections(sections []byte) (string, error) {
	list, err := vmstate.Sections(sections, nil)
	if err != nil {
		return "", err
	}
	for _, s := range list {
		version := map[string]uint32{timerName: timerVersion, globalName: globalVersion}[s.Name]
		if version == 0 || s.Instance != 0 {
			return "", migration.UnknownSection(s.Name, s.Instance)
		}
		if s.Version > version {
			return "", fmt.Errorf("unsupported version %d for '%s' v%d", s.Version, s.Name, version)
		}
	}
	state, err := vmstate.RunState(sections)
	if err == vmstate.ErrNoGlobalState {
		return "running", nil
	}
	return state, err
}

// sectionSizes are the lengths in bytes of the contents of the guest's sections.
var sectionSizes = map[string]int{timerName: 24, globalName: 104}
