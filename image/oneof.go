// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"strings"
)

// OneOf parses a flag of a few words.
func OneOf[T ~string](v *T, s string, all ...T) error {
	for _, a := range all {
		if T(s) == a {
			*v = a
			return nil
		}
	}
	return fmt.Errorf("%q is not one of %s", s, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(all)), ", "), "[]"))
}
