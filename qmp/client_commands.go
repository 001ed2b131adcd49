// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"encoding/json"
	"os"
)

// FDSet is a descriptor set as query-fdsets tells it.
type FDSet struct {
	ID  int64  `json:"fdset-id"`
	FDs []FDIn `json:"fds"`
}

// FDIn is a descriptor in a set.
type FDIn struct {
	// FD is the descriptor's number inside QEMU, as add-fd returned it.
	FD     int64  `json:"fd"`
	Opaque string `json:"opaque,omitempty"`
}

// Human runs a line of the human monitor and returns what it prints. Mistakes in
// the line are in that text too: the human monitor has no errors.
func (c *Client) Human(ctx context.Context, line string) (string, error) {
	args := struct {
		Line string `json:"command-line"`
	}{line}
	var out string
	err := c.Execute(ctx, "human-monitor-command", args, &out)
	return out, err
}

// AddFD passes f to the monitor's descriptor set of the given id (0 or more),
// which is made if it does not exist, with a free text for query-fdsets. It
// returns the number that the descriptor got there. The caller keeps f.
func (c *Client) AddFD(ctx context.Context, set int64, opaque string, f *os.File) (fd int64, err error) {
	args := struct {
		Set    int64  `json:"fdset-id"`
		Opaque string `json:"opaque,omitempty"`
	}{set, opaque}
	var res struct {
		FD int64 `json:"fd"`
	}
	err = c.Execute(ctx, "add-fd", args, &res, f)
	return res.FD, err
}

// RemoveFDSet removes all descriptors of a set, and the set unless something
// in the monitor's process still uses a duplicate of one.
func (c *Client) RemoveFDSet(ctx context.Context, set int64) error {
	args := struct {
		Set int64 `json:"fdset-id"`
	}{set}
	return c.Execute(ctx, "remove-fd", args, nil)
}

// RemoveFD removes one descriptor of a set by the number that AddFD returned.
func (c *Client) RemoveFD(ctx context.Context, set, fd int64) error {
	args := struct {
		Set int64 `json:"fdset-id"`
		FD  int64 `json:"fd"`
	}{set, fd}
	return c.Execute(ctx, "remove-fd", args, nil)
}

// QueryFDSets lists all descriptor sets of the monitor's process.
func (c *Client) QueryFDSets(ctx context.Context) ([]FDSet, error) {
	var sets []FDSet
	err := c.Execute(ctx, "query-fdsets", nil, &sets)
	return sets, err
}

// Forward passes a request that a Server got on to this monitor, with its
// arguments, its descriptors and its being out of band or not, and returns the
// monitor's answer as a Handler does. A client for this is dialled with OOB, and
// with Server.Emit for Events; events keep their places between answers then
// (ExecuteFor).
func (c *Client) Forward(ctx context.Context, r *Request) (any, error) {
	files := r.TakeFiles()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var args any
	if raw := r.Arguments(); raw != nil {
		args = raw
	}
	var result json.RawMessage
	err := c.execute(ctx, &call{cmd: r.Name, oob: r.OOB, request: r}, args, &result, files)
	return result, err
}
