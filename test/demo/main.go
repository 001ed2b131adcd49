// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
)

func main() {
	c := Config{Out: os.Stdout}
	flag.StringVar(&c.Program, "ramjet", "bin/ramjet", "the `PROGRAM` to be shown")
	flag.StringVar(&c.Dir, "dir", "", "keep the image in `DIR` meanwhile (default: the temporary directory)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := error(nil)
	if c.Program, err = filepath.Abs(c.Program); err == nil {
		err = Run(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
