// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// PrintCommand is the command line that Restore would run, as words; descriptors that QEMU would inherit show as the
// paths that they stand for.
//
// For a diff whose base is mapped it is a command that needs no Ramjet: QEMU maps the base and loads the diff by itself.
func PrintCommand(o Options) ([]string, error) {
	r, err := openRestore(o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	alone, err := r.diffIsStream(context.Background())
	if err != nil {
		return nil, err
	}
	args := r.launch.FinalArgs()
	if alone {
		path, err := filepath.Abs(r.image.Path)
		if err != nil {
			return nil, err
		}
		args = r.launch.LoadingArgs(path, r.Paused)
	}
	words := append(slices.Clone(r.launch.Wrapper), r.launch.Executable)
	words = append(words, args.Words()...)
	for k, f := range r.launch.Files {
		path, err := filepath.Abs(f.Name())
		if err != nil {
			return nil, err
		}
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "mem-path="+inherited(k)+",", "mem-path="+cmdline.Double(path)+",")
		}
	}
	return words, nil
}

// PrintClones are the command lines that Clone would run, one for each clone, as PrintCommand has them. Nothing is made, so there can
// be no overlays in them.
func PrintClones(o CloneOptions) ([][]string, error) {
	if o.Overlay {
		return nil, errors.New("the command lines with --overlay name overlays that are made when the clones start: leave it out to print them")
	}
	if o.Socket != "" {
		var err error
		if o.Socket, err = filepath.Abs(o.Socket); err != nil {
			return nil, err
		}
	}
	c := &clone{CloneOptions: o}
	var all [][]string
	for i := range o.N {
		words, err := PrintCommand(c.options(i))
		if err != nil {
			return nil, err
		}
		all = append(all, words)
	}
	return all, nil
}
