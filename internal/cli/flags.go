// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ramjet-vm/ramjet/directio"
)

// choice is a flag that takes one of a few values, each by the word that fmt prints for it.
type choice[T comparable] struct {
	value *T
	words []string
	all   []T
}

// addChoice adds to flags a choice between all, and the completion of its words for shells. *value is the default.
func addChoice[T comparable](c *cobra.Command, flags *pflag.FlagSet, value *T, name, usage string, all ...T) {
	f := &choice[T]{value: value, all: all}
	for _, v := range all {
		f.words = append(f.words, fmt.Sprint(v))
	}
	flags.Var(f, name, usage)
	_ = c.RegisterFlagCompletionFunc(name, fixed(f.words...))
}

// addDirectIO adds --direct-io.
func addDirectIO(c *cobra.Command, mode *directio.Mode, usage string) {
	addChoice(c, c.Flags(), mode, "direct-io", usage, directio.Auto, directio.On, directio.Off)
}

// String is the default in help texts. pflag calls it on the zero value too.
func (f *choice[T]) String() string {
	if f.value == nil {
		return ""
	}
	return fmt.Sprint(*f.value)
}

func (f *choice[T]) Type() string { return strings.Join(f.words, "|") }

func (f *choice[T]) Set(s string) error {
	i := slices.Index(f.words, s)
	if i < 0 {
		return fmt.Errorf("%q is not one of %s", s, strings.Join(f.words, ", "))
	}
	*f.value = f.all[i]
	return nil
}

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
