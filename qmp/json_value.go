// SPDX-License-Identifier: Apache-2.0

package qmp

import "math"

// value is a JSON value as QEMU's parser understands it. encoding/json is not
// used for input because it refuses what QEMU takes (single quotes), takes what
// QEMU refuses (duplicate keys, half surrogate pairs) and words errors its own way.
type value struct {
	kind kind
	num  uint64   // bool, int64, uint64 or the bits of a float64
	str  string   // valid UTF-8
	list []value  // elements of a list, values of an object
	keys []string // keys of an object, in the order of the input
}

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindInt   // fits an int64
	kindUint  // above that, fits a uint64
	kindFloat // any other number; numbers too large for a float64 are infinite
	kindString
	kindList
	kindObject
)

func (v *value) int() int64     { return int64(v.num) }
func (v *value) float() float64 { return math.Float64frombits(v.num) }

// member returns the value of key in an object, nil if there is none.
func (v *value) member(key string) *value {
	if v.kind != kindObject {
		return nil
	}
	for i, k := range v.keys {
		if k == key {
			return &v.list[i]
		}
	}
	return nil
}
