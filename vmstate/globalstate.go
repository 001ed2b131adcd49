// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The section "globalstate" says whether the VM ran (QEMU migration/global_state.c). Its payload:
//
//	0    be32   length of the name with its NUL
//	4    32     name of the run state, padded with NUL
//	36   u8     from QEMU 9.0 on: the next byte counts
//	37   u8     the VM had been suspended by the guest before it was stopped
//	38   66     unused
const (
	globalName     = "globalstate"
	globalSize     = 104
	globalNameSize = 32
	globalSuspend  = 4 + globalNameSize // where the two bytes about suspension are
)

// RunState returns the run state that a loaded VM takes up: "running", "paused", "shutdown", and so on.
// ErrNoGlobalState if the sections do not say.
func RunState(sections []byte) (string, error) {
	p, err := globalState(sections)
	if err != nil {
		return "", err
	}
	name := p[4 : 4+globalNameSize]
	if k := bytes.IndexByte(name, 0); k >= 0 {
		name = name[:k]
	}
	if !printable(name) {
		return "", fmt.Errorf("%w: the run state is %q", ErrCorrupt, name)
	}
	return string(name), nil
}

// WasSuspended reports whether the guest sleeps (S3): it suspended itself before the VM was stopped, or is stored as suspended. A
// loaded VM sleeps on then, as soon as it is let go on, whatever its run state.
func WasSuspended(sections []byte) (bool, error) {
	p, err := globalState(sections)
	if err != nil {
		return false, err
	}
	state, err := RunState(sections)
	return state == "suspended" || p[globalSuspend] != 0 && p[globalSuspend+1] != 0, err
}

// SetRunState changes, in place, the run state that a loaded VM takes up. xen-save-devices-state records "running"
// whatever the VM did, so the state of a VM that was paused has to be put right before it is stored. Whether the guest
// had been suspended is left as it is.
func SetRunState(sections []byte, state string) error {
	if len(state) >= globalNameSize || !printable([]byte(state)) {
		return fmt.Errorf("%q is no name of a run state", state)
	}
	p, err := globalState(sections)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(p, uint32(len(state)+1))
	clear(p[4 : 4+globalNameSize])
	copy(p[4:], state)
	return nil
}

// globalState returns the payload of the one section "globalstate".
func globalState(sections []byte) ([]byte, error) {
	list, err := Sections(sections, nil)
	if err != nil {
		return nil, err
	}
	var payload []byte
	for _, s := range list {
		if s.Name != globalName {
			continue
		}
		if payload != nil {
			return nil, fmt.Errorf("%w: two sections %s", ErrCorrupt, globalName)
		}
		if s.PayloadEnd-s.Payload != globalSize {
			return nil, fmt.Errorf("%w: section %s has %d bytes, not %d", ErrCorrupt, globalName, s.PayloadEnd-s.Payload, globalSize)
		}
		payload = sections[s.Payload:s.PayloadEnd]
	}
	if payload == nil {
		return nil, ErrNoGlobalState
	}
	return payload, nil
}
