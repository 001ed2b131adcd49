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

// PrintCommand returns the command line that Restore would run, as words. Descriptors that QEMU would inherit are shown as the paths of
// their files.
//
// For a diff whose base is mapped the command needs no Ramjet: QEMU maps the base and loads the diff by itself.
func PrintCommand(o Options) ([]string, error) {
	r, err := open(o)
	if err != nil {
		return nil, err
	}
	defer r.close()
	diff, err := r.stateWriter().diffItself(context.Background())
	if err != nil {
		return nil, err
	}
	args := r.launch.FinalArgs()
	if diff != nil {
		path, err := filepath.Abs(r.image.Path)
		if err != nil {
			return nil, err
		}
		args = r.launch.LoadingArgs(path, r.o.Paused)
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

// PrintClones returns the command lines that Clone would run, in the order of the clones, as PrintCommand does. It makes no overlays, and
// so refuses Overlay.
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
	var all [][]string
	for i := range o.N {
		words, err := PrintCommand(o.of(i))
		if err != nil {
			return nil, err
		}
		all = append(all, words)
	}
	return all, nil
}
