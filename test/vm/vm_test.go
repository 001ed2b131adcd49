// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"testing"
)

func TestBoot(t *testing.T) {
	v := Run(t, Config{Fill: 64})
	t.Logf("boot %v", v.Boot)
	s, err := v.Command("info")
	t.Log(s, err)
	c, err := v.Check()
	t.Log(c, err)
	t.Log(v.Console())
}
