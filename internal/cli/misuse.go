// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// noCommand refuses a word that is no command, and says which was meant if that can be guessed.
func noCommand(root *cobra.Command, word string) error {
	if s := root.SuggestionsFor(word); len(s) > 0 {
		return usageError{fmt.Errorf("there is no command %q: did you mean `ramjet %s`?", word, s[0])}
	}
	if _, err := os.Stat(word); err == nil {
		return usageError{fmt.Errorf("there is no command %q: the command comes before the file, `ramjet inspect %s` say", word, word)}
	}
	return usageError{fmt.Errorf("there is no command %q: `ramjet help` lists them", word)}
}

// wrongFlag says what is wrong with a flag in the words of its help.
func wrongFlag(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var value *pflag.InvalidValueError
	see := fmt.Sprintf("see `%s --help`", c.CommandPath())
	switch {
	case errors.As(err, &unknown):
		name := dashed(unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames() != "")
		if like := likeFlag(c, unknown.GetSpecifiedName()); like != "" {
			see = fmt.Sprintf("did you mean --%s?", like)
		}
		err = fmt.Errorf("`%s` has no flag %s: %s", c.CommandPath(), name, see)
	case errors.As(err, &missing):
		err = fmt.Errorf("--%s needs a value, %s: %s", missing.GetFlag().Name, sample(missing.GetFlag()), see)
	case errors.As(err, &value):
		err = fmt.Errorf("--%s: %s: %s", value.GetFlag().Name, wrongValue(value), see)
	default:
		err = fmt.Errorf("%w: %s", err, see)
	}
	return usageError{err}
}

func dashed(name string, short bool) string {
	if short && len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// sample shows a flag with the placeholder that its help has.
func sample(f *pflag.Flag) string {
	name, _ := pflag.UnquoteUsage(f)
	return fmt.Sprintf("--%s %s", f.Name, name)
}

// wrongValue says what was given and, where the flag's type tells, what should be.
func wrongValue(e *pflag.InvalidValueError) string {
	err := e.Unwrap()
	var number *strconv.NumError
	switch {
	case !errors.As(err, &number):
		return err.Error()
	case errors.Is(number.Err, strconv.ErrRange):
		return fmt.Sprintf("%s is out of range", number.Num)
	case e.GetFlag().Value.Type() == "bool":
		return fmt.Sprintf("%q is neither true nor false; the flag alone means true", number.Num)
	}
	return fmt.Sprintf("%q is not a whole number", number.Num)
}

// likeFlag finds the flag that was meant: one that begins so, or is off by a letter or two.
func likeFlag(c *cobra.Command, name string) string {
	best, least := "", 3
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		n := distance(name, f.Name)
		if len(name) > 2 && strings.HasPrefix(f.Name, name) {
			n = 0
		}
		if n < least && n < len(name) {
			best, least = f.Name, n
		}
	})
	return best
}

// distance is how many letters have to be changed, added or removed (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// exactly wants n arguments, named in the usage line.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		names := argumentNames(c)
		how := fmt.Sprintf("%s: see `%s --help`", c.UseLine(), c.CommandPath())
		switch {
		case n == 0:
			return usageError{fmt.Errorf("`%s` takes no argument, and %q is one: see `%s --help`", c.CommandPath(), args[0], c.CommandPath())}
		case len(args) > n:
			return usageError{fmt.Errorf("%q is one argument too many for %s", args[n], how)}
		case len(args) < len(names):
			return usageError{fmt.Errorf("%s is missing in %s", names[len(args)], how)}
		}
		return usageError{fmt.Errorf("%d arguments where there should be %d in %s", len(args), n, how)}
	}
}

// argumentNames are the words of a usage line that stand for arguments: those in capitals, before what is optional.
func argumentNames(c *cobra.Command) (names []string) {
	for _, w := range strings.Fields(c.Use)[1:] {
		if w == strings.ToUpper(w) && strings.Trim(w, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
			names = append(names, w)
		}
	}
	return names
}
