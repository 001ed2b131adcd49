// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"github.com/docker/go-units"
)

// word is a flag of a few words. The value itself says which it takes.
type word[T ~string, P interface {
	*T
	Set(string) error
}] struct {
	value P
	words string
}

func oneWord[T ~string, P interface {
	*T
	Set(string) error
}](value P, words string) *word[T, P] {
	return &word[T, P]{value, words}
}

func (w *word[T, P]) String() string     { return string(*w.value) }
func (w *word[T, P]) Set(s string) error { return w.value.Set(s) }
func (w *word[T, P]) Type() string       { return w.words }

// bandwidth is a number of bytes a second with an optional suffix; units are of 1024.
type bandwidth int64

// String is "0" for no limit, which help takes for no default.
func (b *bandwidth) String() string {
	if *b == 0 {
		return "0"
	}
	return units.BytesSize(float64(*b))
}

func (b *bandwidth) Type() string { return "RATE" }

func (b *bandwidth) Set(s string) error {
	n, err := units.RAMInBytes(strings.TrimSuffix(s, "/s"))
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a rate: give bytes a second, 300M or 2.5G say, or 0 for no limit", s)
	}
	*b = bandwidth(n)
	return nil
}
