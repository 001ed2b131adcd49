// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/seal"
)

// ListResult is what `ramjet ls --json` prints.
type ListResult struct {
	Dir    string        `json:"dir"`
	Images []ListedImage `json:"images"` // by name
	Others int           `json:"others"` // files that are no images
}

// ListedImage is an image in a directory. Sizes are in bytes.
type ListedImage struct {
	Image    string    `json:"image"`           // its path
	ID       string    `json:"id"`              // "" if not sealed
	VM       string    `json:"vm"`              // the name that the VM was started with; "" if it had none, or that is not recorded
	Error    string    `json:"error,omitempty"` // why it cannot be read, that its save was interrupted for example; all else is empty then
	Machine  string    `json:"machine"`
	Format   string    `json:"format"`   // who wrote it: ramjet, qemu, libvirt
	Created  time.Time `json:"created"`  // of an image without a seal the time of the last write
	Length   int64     `json:"length"`   // of the file, holes included
	Disk     int64     `json:"disk"`     // what the file takes on the disk
	Complete bool      `json:"complete"` // false: the save was interrupted
	Sealed   bool      `json:"sealed"`
	// Base is the base of a diff; null for a whole image.
	Base *ListedBase `json:"base"`
	// NeededBy are the diffs in the directory that cannot be restored without this image.
	NeededBy []string `json:"needed_by"`
}

// ListedBase is the base that a diff needs.
type ListedBase struct {
	seal.Base
	Found string `json:"found"` // the path of the image with this id; "" if it is in neither place where a restore looks
}

// List describes the images in a directory, not those in the directories below it.
func List(dir string) (*ListResult, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no directory %s", dir)
	case errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%s is not a directory: ramjet inspect shows an image", dir)
	case err != nil:
		return nil, err
	}
	r := &ListResult{Dir: dir, Images: []ListedImage{}}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			continue // a directory, a socket, a link to nothing
		}
		i, err := listed(path)
		if errors.Is(err, mappedram.ErrImage) && !errors.Is(err, mappedram.ErrIncomplete) {
			r.Others++
			continue
		}
		if err != nil {
			i = &ListedImage{Image: path, Error: err.Error(), NeededBy: []string{}}
		}
		r.Images = append(r.Images, *i)
	}
	for k := range r.Images {
		r.Images[k].NeededBy = neededBy(r.Images[k].ID, r.Images)
	}
	return r, nil
}

// neededBy are the paths of the diffs among images that build on the image with that id.
func neededBy(id string, images []ListedImage) []string {
	diffs := []string{}
	for _, i := range images {
		if i.Base != nil && i.Base.ID.String() == id {
			diffs = append(diffs, i.Image)
		}
	}
	slices.Sort(diffs)
	return diffs
}

// listed describes one file.
func listed(path string) (*ListedImage, error) {
	img, _, err := image.OpenAny(path)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Descriptor.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	i := &ListedImage{
		Image: path, Machine: img.Config.MachineType, Format: img.Format, Complete: img.Complete,
		Created: time.Unix(st.Mtim.Unix()).UTC(), Length: st.Size, Disk: st.Blocks * 512,
	}
	s := img.Seal
	if s == nil {
		return i, nil
	}
	i.Sealed, i.ID, i.VM = true, s.ID.String(), vmName(s.CommandLine)
	if !s.Created.IsZero() {
		i.Created = s.Created
	}
	if s.Base != nil {
		i.Base = &ListedBase{Base: *s.Base}
		if base, err := image.OpenBaseOf(img, ""); err == nil {
			i.Base.Found = base.Path
			base.Close()
		}
	}
	return i, nil
}

// vmName is the name that a command line gives the VM (-name NAME, -name guest=NAME,...); "" if it gives none.
func vmName(words []string) (name string) {
	for _, a := range cmdline.ParseArgs(words) {
		if a.Name == "name" {
			name = cmdline.ParseProperties(a.Value, "guest").Get("guest")
		}
	}
	return name
}

// dependents are the paths of the diffs in an image's directory that build on it. Files there that cannot be read are left out.
func dependents(path string, id seal.ID) []string {
	var images []ListedImage
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		other := filepath.Join(filepath.Dir(path), e.Name())
		if st, err := os.Stat(other); err != nil || !st.Mode().IsRegular() {
			continue
		}
		if i, err := listed(other); err == nil {
			images = append(images, *i)
		}
	}
	return neededBy(id.String(), images)
}
