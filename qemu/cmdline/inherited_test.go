// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"strings"
	"testing"
)

func TestRefuseInherited(t *testing.T) {
	for args, bad := range map[string]bool{
		"-netdev tap,id=n,fd=5":                                                   true,
		"-netdev tap,id=n,fds=5:6,vhost=on":                                       true,
		"-netdev tap,id=n,ifname=t,vhost=on,vhostfd=7":                            true,
		`-netdev {"type":"tap","id":"n","fd":"5"}`:                                true,
		"-device vhost-scsi-pci,wwpn=naa.5,vhostfd=9":                             true,
		"-chardev socket,id=c,fd=3":                                               true,
		"-add-fd fd=3,set=2":                                                      true,
		"-drive file=/dev/fdset/2,format=raw":                                     true,
		"-hda /dev/fd/4":                                                          true,
		"-kernel /proc/self/fd/4":                                                 true,
		`-blockdev {"driver":"raw","file":{"filename":"/dev/fdset/1"}}`:           true,
		"-blockdev driver=nbd,server.type=fd,server.str=7":                        true,
		`-blockdev {"driver":"nbd","server":{"type":"fd","str":"7"}}`:             true,
		"-object memory-backend-file,id=m,size=1M,mem-path=/proc/self/fd/4":       true,
		"-netdev user,id=n -chardev socket,id=c,path=/fd=3,server=on":             false,
		"-drive file=/dev/fdset.raw,format=raw -name fd=3":                        false,
		`-blockdev {"driver":"nbd","server":{"type":"inet","host":"h","port":1}}`: false,
		"-device virtio-blk-pci,drive=fd -m 1G -S":                                false,
	} {
		err := ParseArgs(strings.Fields(args)).RefuseInherited()
		if (err != nil) != bad {
			t.Errorf("%s: %v", args, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), args) {
			t.Errorf("%s is not named: %v", args, err)
		}
	}
}
