// SPDX-License-Identifier: Apache-2.0

// Command gen writes the man pages and the shell completions, from the definitions of the commands.
//
//	go run ./scripts/gen DIRECTORY
//
// makes DIRECTORY/man/*.1 and DIRECTORY/completions/ramjet.{bash,zsh,fish}.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen DIRECTORY")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "gen: %v\n", err)
		os.Exit(1)
	}
}

func generate(dir string) error {
	root := cli.Command()
	root.InitDefaultHelpCmd()
	if err := manPages(root, filepath.Join(dir, "man")); err != nil {
		return err
	}
	return completions(root, filepath.Join(dir, "completions"))
}

// manPages writes a page for each command.
func manPages(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root.DisableAutoGenTag = true
	return doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{
		Header: &doc.GenManHeader{
			Section: "1", Date: date(), Source: "Ramjet " + image.VersionString(), Manual: "Ramjet",
		},
		Path: dir, CommandSeparator: "-",
	})
}

// date is the pages' date: that of the commit where the build says so, so that building again makes the same.
func date() *time.Time {
	t := time.Now()
	if s, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		t = time.Unix(s, 0)
	}
	t = t.UTC()
	return &t
}

func completions(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for shell, write := range map[string]func(*bytes.Buffer) error{
		"bash": func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"zsh":  func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "ramjet."+shell), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
