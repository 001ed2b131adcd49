// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// overlayable returns the disks that are written and that overlays can come over.
func overlayable(args cmdline.Args) []cmdline.Disk {
	return slices.DeleteFunc(args.Disks(), func(d cmdline.Disk) bool { return d.ReadOnly || d.Fixed })
}

// overlayPaths returns where in dir the overlays of clone i go, in the order of overlayable.
func overlayPaths(args cmdline.Args, dir string, i int) (paths []string) {
	clean := func(r rune) rune {
		if strings.ContainsRune("/,: ", r) {
			return '-'
		}
		return r
	}
	for _, d := range overlayable(args) {
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%d-%s.qcow2", i, strings.Map(clean, d.Name))))
	}
	return paths
}

// withOverlays returns arguments with overlays over the disks that are written, in the order of overlayable.
func withOverlays(args cmdline.Args, paths []string) (_ cmdline.Args, err error) {
	for k, d := range overlayable(args) {
		if args, err = args.WithOverlay(d, paths[k]); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// makeOverlays makes the overlays of clone i in dir, and puts them into its command line: into that which is run, and into that which a
// later save of the clone records, so that a restore of that save cannot write to the disk below. On an error, made are those that it
// has made.
func makeOverlays(ctx context.Context, dir string, i int, l *qemu.Launch) (made []string, err error) {
	args := cmdline.ParseArgs(l.Args)
	paths := overlayPaths(args, dir, i)
	for k, d := range overlayable(args) {
		if _, err := os.Lstat(paths[k]); !errors.Is(err, fs.ErrNotExist) {
			return made, fmt.Errorf("%s exists already: it may be in use; choose another directory, or remove it", paths[k])
		}
		if err := l.MakeOverlay(ctx, d, paths[k]); err != nil {
			return made, err
		}
		made = append(made, paths[k])
	}
	if args, err = withOverlays(args, paths); err != nil {
		return made, err
	}
	// The disks may have other names there, as these go by the place of the option.
	given, err := withOverlays(cmdline.ParseArgs(l.Given), paths)
	if err != nil {
		return made, err
	}
	l.Args, l.Given = args.Words(), given.Words()
	return made, nil
}
