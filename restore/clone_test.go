// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"errors"
	"testing"
)

// TestFailures has the error of a Clone say which clones failed, in few words whatever their number.
func TestFailures(t *testing.T) {
	a, b := errors.New("no memory"), errors.New("no disk")
	many := make([]error, 30)
	for i := range many {
		many[i] = a
	}
	for _, c := range []struct {
		errs []error
		want string
	}{
		{[]error{nil, a, nil}, "clone 1: no memory\nthe other 2 run"},
		{[]error{a, b, errors.New("no memory")}, "clone 0, 2: no memory\nclone 1: no disk"},
		{many, "clone 0, 1, 2, 3, 4, 5, 6, 23 more: no memory"},
	} {
		err := failures(c.errs)
		if err == nil || err.Error() != c.want || !errors.Is(err, a) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	if err := failures(make([]error, 3)); err != nil {
		t.Error(err)
	}
}
