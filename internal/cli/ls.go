// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/inspect"
)

func (a *app) ls() *cobra.Command {
	return &cobra.Command{
		Use:   "ls [flags] [DIR]",
		Short: "List the images in a directory, and which image needs which",
		Long: `List the images in DIR, or in the current directory: id, name of the VM, size on the disk, age, and the base of a diff.

A diff cannot be restored without its base. The last column shows which image a diff needs, or which diffs need this image and
would be lost with it; --json has that in "base" and "needed_by". Other files and subdirectories are not listed. Images are
files: rm deletes one.`,
		Example: `  ramjet ls /var/lib/vms
  ramjet ls --json /var/lib/vms | jq '.images[] | select(.needed_by == []) | .image'`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly(1)(c, args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			lean()
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			r, err := inspect.List(dir)
			if err != nil {
				return err
			}
			return a.print(r, listed(r))
		},
	}
}

// shownID is how much of an id is shown to people, in characters.
const shownID = 12

// listed is a result in words.
func listed(r *inspect.ListResult) string {
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 8, 2, ' ', 0)
	fmt.Fprint(w, "image\tid\tvm\tsize\tage\t\n")
	for _, i := range r.Images {
		if i.Error != "" {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t%s\n", filepath.Base(i.Image), strings.TrimPrefix(oneLine(i.Error), i.Image+": "))
			continue
		}
		id := i.ID
		if len(id) > shownID {
			id = id[:shownID]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", filepath.Base(i.Image), cmp.Or(id, "-"), cmp.Or(i.VM, "-"), size(i.Disk),
			units.HumanDuration(time.Since(i.Created)), depends(i))
	}
	w.Flush()
	switch {
	case len(r.Images) == 0 && r.Others == 0:
		return "no images in " + r.Dir + "\n"
	case len(r.Images) == 0:
		return fmt.Sprintf("no images in %s (and %d other files)\n", r.Dir, r.Others)
	}
	return s.String()
}

// depends is what is wrong with a listed image, or which image it needs, or which need it, in words.
func depends(i inspect.ListedImage) string {
	switch b := i.Base; {
	case !i.Complete:
		return "incomplete: the save was interrupted"
	case b != nil && b.Found == "":
		return fmt.Sprintf("diff: needs %s, which is not at %s", b.ID.String()[:shownID], b.Path)
	case b != nil:
		return "diff: needs " + b.Found
	case len(i.NeededBy) > 0:
		return "needed by " + baseNames(i.NeededBy)
	case !i.Sealed:
		return "no seal"
	}
	return ""
}

// baseNames are the names of files without their directories.
func baseNames(paths []string) string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	return strings.Join(names, ", ")
}
