// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"testing"
)

// TestTrusted is the whole table of whose recorded command lines are run by whom. (Issue 15, point 15.)
func TestTrusted(t *testing.T) {
	const root, me, other = 0, 1000, 1001
	user := func(id uint32) *uint32 { return &id }
	for _, c := range []struct {
		who  int
		from recorder
		want bool
	}{
		{me, recorder{me, false, user(me)}, true},
		{me, recorder{root, false, user(me)}, true},
		{me, recorder{root, false, user(root)}, true},
		{me, recorder{me, false, user(root)}, false},
		{me, recorder{me, false, user(other)}, false},
		{me, recorder{root, false, user(other)}, false},
		{me, recorder{other, false, user(me)}, false},
		{me, recorder{other, false, user(other)}, false},
		{me, recorder{me, true, user(me)}, false},
		{me, recorder{me, false, nil}, false},
		{me, recorder{root, false, nil}, false},
		{root, recorder{root, false, user(root)}, true},
		{root, recorder{root, false, user(me)}, false},
		{root, recorder{me, false, user(root)}, false},
		{root, recorder{root, true, user(root)}, false},
		{root, recorder{root, false, nil}, false},
	} {
		if err := c.from.trusted(c.who); (err == nil) != c.want {
			t.Errorf("user %d, image of %d (others may write: %v): %v, want trusted: %v", c.who, c.from.image, c.from.others, err, c.want)
		}
	}
}
