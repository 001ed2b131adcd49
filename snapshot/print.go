// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu"
)

// PrintCommand is the command line that Restore would run, as words; descriptors that QEMU would inherit show as the
// paths that they stand for.
//
// For a diff whose base is mapped it is a command that needs no Ramjet: QEMU maps the base and loads the diff by itself.
func PrintCommand(o RestoreOptions) ([]string, error) {
	r, err := openRestore(o)
	if err != nil {
		return nil, err
	}
	defer r.close()
	alone, err := r.diffIsStream(context.Background())
	if err != nil {
		return nil, err
	}
	args := r.launch.FinalArgs()
	if alone {
		path, err := filepath.Abs(r.image.path)
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
			words[i] = strings.ReplaceAll(words[i], "mem-path="+inherited(k)+",", "mem-path="+qemu.Double(path)+",")
		}
	}
	return words, nil
}
