// SPDX-License-Identifier: Apache-2.0

package qmp_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/ramjet-vm/ramjet/qmp"
)

// A client asks a QEMU what its guest does.
func ExampleDial() {
	ctx := context.Background()
	c, err := qmp.Dial(ctx, "/run/vm1.qmp")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	var status struct{ Status string }
	if err := c.Execute(ctx, "query-status", nil, &status); err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Status)
}

// A monitor of one command, and a client of it.
func ExampleServer() {
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "monitor")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(err)

	add := func(_ context.Context, r *qmp.Request) (any, error) {
		var args struct {
			A int64 `json:"a"`
			B int64 `json:"b"`
		}
		if err := r.Args(&args); err != nil {
			return nil, err
		}
		return args.A + args.B, nil
	}
	server := &qmp.Server{Greeting: qmp.Greeting{Major: 10}, Commands: map[string]qmp.Command{"add": {Run: add}}}
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go server.Serve(ctx, l)

	c, err := qmp.Dial(ctx, path)
	check(err)
	defer c.Close()
	var sum int64
	check(c.Execute(ctx, "add", map[string]int{"a": 40, "b": 2}, &sum))
	fmt.Println(sum)
	fmt.Println(c.Execute(ctx, "add", map[string]int{"a": 40}, nil))
	// Output:
	// 42
	// Parameter 'b' is missing
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
