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
		name := unknown.GetSpecifiedName()
		if short := unknown.GetSpecifiedShortnames(); short != "" {
			return usageError{wrongShort(c, name, short)}
		}
		if like := likeFlag(c, name); like != "" {
			see = fmt.Sprintf("did you mean --%s?", like)
		}
		err = fmt.Errorf("`%s` has no flag --%s: %s", c.CommandPath(), name, see)
	case errors.As(err, &missing):
		err = fmt.Errorf("--%s needs a value, %s: %s", missing.GetFlag().Name, sample(missing.GetFlag()), see)
	case errors.As(err, &value):
		err = fmt.Errorf("--%s: %s: %s", value.GetFlag().Name, wrongValue(value), see)
	default:
		err = fmt.Errorf("%w: %s", err, see)
	}
	return usageError{err}
}

// wrongShort is about an unknown letter of a group after one dash: a long flag with a dash too few, or QEMU's.
func wrongShort(c *cobra.Command, letter, group string) error {
	name, _, _ := strings.Cut(group, "=")
	switch {
	case len(name) > 1 && c.Flags().Lookup(name) != nil:
		return fmt.Errorf("-%s: flags of more than one letter have two dashes, --%s", name, name)
	case strings.Contains(c.Use, "[-- "):
		return fmt.Errorf("`%s` has no flag -%s: QEMU's arguments come after \"--\", see `%s --help`", c.CommandPath(), name, c.CommandPath())
	}
	return fmt.Errorf("`%s` has no flag -%s: see `%s --help`", c.CommandPath(), letter, c.CommandPath())
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
		case len(args) < len(names) && c.ArgsLenAtDash() >= 0:
			return usageError{fmt.Errorf("%s is missing before \"--\" in %s", names[len(args)], how)}
		case len(args) < len(names):
			return usageError{fmt.Errorf("%s is missing in %s", names[len(args)], how)}
		}
		return usageError{fmt.Errorf("%d arguments where there should be %d in %s", len(args), n, how)}
	}
}

// oneOrMore wants the argument that the usage line names with dots behind it at least once.
func oneOrMore(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return exactly(1)(c, args)
	}
	return nil
}

// argumentNames are the words of a usage line that stand for arguments: those in capitals, before what is optional.
func argumentNames(c *cobra.Command) (names []string) {
	for _, w := range strings.Fields(c.Use)[1:] {
		if w = strings.TrimSuffix(w, "..."); w == strings.ToUpper(w) && strings.Trim(w, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
			names = append(names, w)
		}
	}
	return names
}

// helpCommand is cobra's own, but for a topic that there is not.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Example: "  ramjet help save",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return noCommand(root, rest[0])
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// completion is cobra's own, but for a shell that there is not, and with an example.
func completion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	c, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	c.Example = `  ramjet completion bash >/etc/bash_completion.d/ramjet`
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(*cobra.Command, []string) error {
		return usageError{errors.New("completion for which shell? Give bash, zsh, fish or powershell")}
	}
	for _, s := range c.Commands() {
		s.Example = "  ramjet completion " + s.Name()
	}
}
