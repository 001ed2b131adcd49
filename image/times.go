// SPDX-License-Identifier: Apache-2.0

package image

import (
	"time"
)

// Lap adds the time until the returned function is called to total.
func Lap(total *float64) (stop func()) {
	began := time.Now()
	return func() { *total += time.Since(began).Seconds() }
}
