// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelp holds every command to an explanation of itself and of each flag, and to examples that its definition accepts.
func TestHelp(t *testing.T) {
	each(Command(), func(c *cobra.Command) {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short text %q", path, c.Short)
		}
		if c.Example == "" {
			t.Errorf("%s has no example", path)
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s is not explained", path, f.Name)
			}
		})
		for _, line := range strings.Split(c.Example, "\n") {
			for _, command := range strings.Split(line, " && ") {
				checkExample(t, path, command)
			}
		}
	})
}

// TestDocuments holds the commands that documents show to the same. Those that can be run without more are run, too, by test/docs.
func TestDocuments(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	check(t, err)
	n := 0
	for _, f := range append(files, "../../README.md") {
		b, err := os.ReadFile(f)
		check(t, err)
		inside := false
		for i, line := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(line, "```") {
				inside = strings.HasPrefix(line, "```sh") || strings.HasPrefix(line, "```console")
				continue
			}
			command := strings.TrimPrefix(strings.TrimSpace(line), "$ ")
			if inside && strings.HasPrefix(command, "ramjet ") {
				n++
				checkExample(t, fmt.Sprintf("%s:%d", f, i+1), command)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d commands were found", n)
	}
}

func each(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, s := range c.Commands() {
		each(s, do)
	}
}

// checkExample parses a command of an example as it would be when it is typed; nothing is run.
func checkExample(t *testing.T, path, command string) {
	t.Helper()
	for _, end := range []string{" | ", " >", " # "} {
		command, _, _ = strings.Cut(command, end)
	}
	words := strings.Fields(command)
	if len(words) == 0 || words[0] != "ramjet" {
		return
	}
	root := Command()
	c, args, err := root.Find(words[1:])
	if err == nil {
		err = c.ParseFlags(args)
	}
	if err == nil && c.Args != nil {
		err = c.Args(c, c.Flags().Args())
	}
	if err != nil {
		t.Errorf("%s: the example %q is wrong: %v", path, command, err)
	}
}

// TestFlagTexts holds the lists of flags to say each thing once: a placeholder that tells what to give, not the name of a type of
// Go, not again in the explanation, and a default only where there is one.
func TestFlagTexts(t *testing.T) {
	goType := regexp.MustCompile(`^(u?int|float|string|duration|value|count)`)
	each(Command(), func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			placeholder, text := pflag.UnquoteUsage(f)
			name := c.CommandPath() + " --" + f.Name
			switch {
			case goType.MatchString(placeholder):
				t.Errorf("%s %s: the placeholder is a type of Go", name, placeholder)
			case strings.Contains(placeholder, "|") && strings.Contains(text, placeholder):
				t.Errorf("%s %s %s: the same twice", name, placeholder, text)
			}
		})
		if usage := c.Flags().FlagUsages() + c.PersistentFlags().FlagUsages(); strings.Contains(usage, "(default 0") || strings.Contains(usage, "(default -") || strings.Contains(usage, `(default "")`) {
			t.Errorf("%s: a default that is none:\n%s", c.CommandPath(), usage)
		}
	})
}
