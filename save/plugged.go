// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"encoding/json"
)

// findPlugged asks where plugged memory is, for the seal. Nobody needs that to restore the VM, so it may fail.
func (s *save) findPlugged(ctx context.Context) {
	s.plugged = nil
	plugged, err := s.vm.PluggedMemory(ctx)
	if err == nil && len(plugged) > 0 {
		s.plugged, err = json.Marshal(plugged)
	}
	if err != nil {
		s.log("not recorded where plugged memory is: %v", err)
	}
}
