// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// storage is where the data of a block device is: a file of this host, or an address of a server.
type storage struct {
	path    string // of the file, or ""
	address string // what tells the server's disk from all others, or ""
	depth   int    // how many nodes lie over it in the same option
}

// remoteDrivers are QEMU's protocols of which the data is not in a file (block/*.c, bdrv_file_open).
var remoteDrivers = []string{"nbd", "rbd", "iscsi", "ssh", "gluster", "nfs", "http", "https", "ftp", "ftps", "nvme", "nvme-io_uring",
	"virtio-blk-vfio-pci", "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa", "sheepdog", "vvfat", "fat"}

// notIdentifying are the keys of a node that do not say which disk it is.
var notIdentifying = []string{"node-name", "driver", "cache", "discard", "detect-zeroes", "read-only", "auto-read-only", "force-share",
	"user", "password", "password-secret", "key-secret", "tls-creds", "tls-hostname", "reconnect-delay", "open-timeout"}

// storages finds where the data of a node is, and of the nodes in it; not of backing files, which are only read.
func (b blockdev) storages(depth int) (found []storage) {
	driver := b.text("driver")
	name := b.text("filename")
	switch {
	case name != "" && slices.Contains(remoteDrivers, driver):
		found = append(found, storage{address: withProtocol(driver, name), depth: depth})
	case name != "" && driver != "":
		found = append(found, storage{path: name, depth: depth})
	case name != "":
		found = append(found, namedStorages(name, depth)...)
	case slices.Contains(remoteDrivers, driver):
		found = append(found, storage{address: b.address(driver), depth: depth})
	}
	for _, key := range slices.Sorted(maps.Keys(b)) {
		switch v := b[key].(type) {
		case map[string]any:
			if key != "backing" && key != "server" {
				found = append(found, blockdev(v).storages(depth+1)...)
			}
		case []any:
			for _, e := range v {
				if node, ok := e.(map[string]any); ok {
					found = append(found, blockdev(node).storages(depth+1)...)
				}
			}
		}
	}
	return found
}

// address writes what tells one disk of a server from another.
func (b blockdev) address(driver string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if slices.Contains(notIdentifying, key) {
			continue
		}
		switch v := b[key].(type) {
		case string:
			parts = append(parts, key+"="+v)
		case map[string]any, []any, float64:
			if text, err := json.Marshal(v); err == nil {
				parts = append(parts, key+"="+string(text))
			}
		}
	}
	return driver + ":" + strings.Join(parts, ",")
}

func withProtocol(driver, name string) string {
	if strings.HasPrefix(name, driver+":") {
		return name
	}
	return driver + ":" + name
}

// namedStorages takes the name of an image as -drive file= has it (bdrv_open_inherit, bdrv_parse_filename).
func namedStorages(name string, depth int) []storage {
	if text, ok := strings.CutPrefix(name, "json:"); ok {
		b := blockdev{}
		if json.Unmarshal([]byte(text), &b) != nil {
			return nil // QEMU refuses it
		}
		b.nest()
		return b.storages(depth + 1)
	}
	protocol, rest, colon := strings.Cut(name, ":")
	switch {
	case name == "":
		return nil
	case !colon || strings.Contains(protocol, "/"):
		return []storage{{path: name, depth: depth}}
	case protocol == "file", protocol == "host_device", protocol == "host_cdrom":
		return []storage{{path: rest, depth: depth}}
	case protocol == "fat":
		if !strings.Contains(":"+rest, ":rw:") {
			return nil // never written
		}
	case strings.HasPrefix(protocol, "null-"):
		return nil // holds nothing
	case protocol == "blkdebug", protocol == "blkverify", protocol == "blklogwrites":
		_, image, _ := strings.Cut(rest, ":")
		return namedStorages(image, depth+1)
	}
	return []storage{{address: name, depth: depth}}
}

// nest gives dotted keys their place: {"file.filename": "x"} is what {"file": {"filename": "x"}} is.
func (b blockdev) nest() {
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if v := b[key]; strings.Contains(key, ".") {
			delete(b, key)
			b.set(key, v)
		}
	}
}

// driveTree is a -drive option's value as nested objects: what it says besides file=.
func driveTree(p Properties) blockdev {
	b := blockdev{}
	for k, v := range p.All() {
		if k != "file" {
			b.set(k, v)
		}
	}
	return b
}

// driveStorages finds where the data of a -drive is.
func driveStorages(p Properties) []storage {
	found := namedStorages(p.Get("file"), 0)
	tree := driveTree(p)
	if p.Get("file") != "" {
		delete(tree, "file") // options of the file that is named
		delete(tree, "driver")
	}
	return append(found, tree.storages(0)...)
}
