// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
)

// about is the head of the usage text.
const about = `usage: go run ./test/bench [flags]

Boot a Linux guest and save and load it in turn with Ramjet and with QEMU's own migration to a file, beside the bare disk,
on the file system of -dir. Figures are medians; compare only within one run. Rows stand in groups: the column "relative"
compares with the first row of the group, and what Ramjet is to hold is listed at the end.

Needs QEMU and a guest kernel (make setup), and free memory and disk space of four times the guest's memory.

`

// output says what becomes of the report.
type output struct {
	json bool
	plot string // file for the drawing; "": none
}

func main() {
	c, out := parse(os.Args[1:], os.Stderr)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, c, out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the command line. It ends the program where that is wrong.
func parse(args []string, stderr io.Writer) (c Config, out output) {
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, about)
		f.PrintDefaults()
	}
	f.StringVar(&c.Program, "ramjet", "bin/ramjet", "the `PROGRAM` to be measured")
	f.StringVar(&c.Dir, "dir", ".", "write to the file system of `DIR`")
	f.StringVar(&c.Memory, "memory", "4G", "the guest's memory, `SIZE` as QEMU's -m takes it")
	f.IntVar(&c.Fill, "fill", 2560, "`MIB` of it that are in use")
	f.IntVar(&c.Rounds, "rounds", 5, "measure each `N` times")
	f.BoolVar(&c.Quick, "quick", false, "only see that all can be measured: fewer rows, and a small guest and one round unless others are asked for")
	f.BoolVar(&out.json, "json", false, "print the report as one JSON object")
	f.StringVar(&out.plot, "svg", "", "draw the report into `FILE` too")
	f.Func("only", "measure only rows whose name begins with `NAME` (repeatable)", func(s string) error {
		c.Only = append(c.Only, s)
		return nil
	})
	_ = f.Parse(args) // ExitOnError
	if f.NArg() > 0 {
		fmt.Fprintf(stderr, "bench: %q is no flag: see -help\n", f.Arg(0))
		os.Exit(2)
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if c.Quick {
		c.quicken(given)
	}
	c.Log = func(s string) { fmt.Fprintln(stderr, s) }
	return c, out
}

// quicken takes less of everything that was not given.
func (c *Config) quicken(given map[string]bool) {
	if !given["rounds"] {
		c.Rounds = 1
	}
	if !given["memory"] && !given["fill"] {
		c.Memory, c.Fill = QuickMemory, QuickFill
	}
}

func run(ctx context.Context, c Config, out output) (err error) {
	if c.Program, err = filepath.Abs(c.Program); err != nil {
		return err
	}
	if _, err := os.Stat(c.Program); err != nil {
		return fmt.Errorf("there is no program to measure (%w): make build, or name one with -ramjet", err)
	}
	r, err := Run(ctx, c)
	if err != nil {
		return err
	}
	if out.plot != "" {
		if err := os.WriteFile(out.plot, []byte(r.SVG()), 0o644); err != nil {
			return err
		}
	}
	text := []byte(r.Table())
	if out.json {
		if text, err = json.Marshal(r); err != nil {
			return err
		}
		text = append(text, '\n')
	}
	_, err = os.Stdout.Write(text)
	return err
}
