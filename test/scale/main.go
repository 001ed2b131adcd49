// SPDX-License-Identifier: Apache-2.0

// Command scale measures what a save, a diff and the two kinds of restore cost against RAM size, stored bytes, channels and the
// device's speed, fits the model of docs/scale.md to it, and prints both as they stand there. The device is
// slowed down by the kernel (the blkio or io controller), which needs root.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// config is what the command line says.
type config struct {
	program string
	dir     string
	sizes   []int // MiB
	speeds  []int // MB/s; 0: as it is
	rounds  int
}

func main() {
	c := config{}
	sizes := flag.String("sizes", "256,1024,4096,12288", "guests of these many `MIB`, 60% of it in use")
	speeds := flag.String("speeds", "0,1000,300", "devices of these `MB/S`, 0 is the device as it is")
	flag.StringVar(&c.program, "ramjet", "bin/ramjet", "the `PROGRAM` to be measured")
	flag.StringVar(&c.dir, "dir", ".", "write to the file system of `DIR`")
	flag.IntVar(&c.rounds, "rounds", 3, "how often each is measured")
	flag.Parse()
	c.sizes, c.speeds = numbers(*sizes), numbers(*speeds)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func numbers(list string) (n []int) {
	for _, s := range strings.Split(list, ",") {
		v, err := strconv.Atoi(s)
		if err != nil {
			fmt.Fprintf(os.Stderr, "scale: %q is not a number\n", s)
			os.Exit(2)
		}
		n = append(n, v)
	}
	return n
}

func (c config) run(ctx context.Context) error {
	if err := vm.Available(); err != nil {
		return err
	}
	program, err := filepath.Abs(c.program)
	if err != nil {
		return err
	}
	c.program = program
	dir, err := os.MkdirTemp(c.dir, "ramjet-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	slow, err := newThrottle(dir)
	if err != nil {
		return err
	}
	defer slow.close()
	m := &measurement{config: c, image: filepath.Join(dir, "image"), diff: filepath.Join(dir, "diff"), slow: slow}
	for _, size := range c.sizes {
		if err := m.guest(ctx, size); err != nil {
			return err
		}
	}
	fmt.Print(m.tables())
	return nil
}
