// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"slices"
	"strings"
	"testing"
)

// TestExclusive has what each option takes for itself.
func TestExclusive(t *testing.T) {
	for line, want := range map[string][]string{
		// Monitors and character devices.
		"-qmp unix:/run/q,server=on,wait=off":             {"the socket /run/q"},
		"-qmp unix:q.sock,server":                         {"the socket /dir/q.sock"},
		"-qmp unix:/run/q":                                nil, // a client
		"-monitor tcp:127.0.0.1:4444,server=on,wait=off":  {"port 4444 of this host (tcp)"},
		"-serial mon:telnet::4445,server=on":              {"port 4445 of this host (tcp)"},
		"-serial file:/x/log":                             {"the file /x/log"},
		"-serial udp::1@:2222":                            {"port 2222 of this host (udp)"},
		"-serial stdio":                                   nil,
		"-serial chardev:s":                               nil,
		"-gdb tcp::1234":                                  {"port 1234 of this host (tcp)"},
		"-s":                                              {"port 1234 of this host (tcp)"},
		"-chardev socket,id=a,path=/x/s,server=on":        {"the socket /x/s"},
		"-chardev socket,id=a,path=/x/s":                  nil,
		"-chardev socket,id=a,port=77,host=h,server=on":   {"port 77 of this host (tcp)"},
		"-chardev socket,id=a,path=/x/s,logfile=l":        {"the file /dir/l"},
		"-chardev file,id=a,path=/x/f":                    {"the file /x/f"},
		`-chardev {"backend":"file","id":"a","path":"f"}`: {"the file /dir/f"},
		"-chardev null,id=a":                              nil,
		// Networks.
		"-nic user,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-:53":           {"port 2222 of this host (tcp)", "port 53 of this host (udp)"},
		"-netdev user,id=n,hostfwd=::80-:80":                                     {"port 80 of this host (tcp)"},
		`-netdev {"type":"user","id":"n","hostfwd":[{"str":":1.2.3.4:81-:81"}]}`: {"port 81 of this host (tcp)"},
		"-netdev tap,id=n,ifname=tap0,script=no":                                 {"the network interface tap0"},
		"-netdev socket,id=n,listen=:9000":                                       {"port 9000 of this host (tcp)"},
		"-netdev stream,id=n,server=on,addr.type=unix,addr.path=/x/n":            {"the socket /x/n"},
		"-netdev user,id=n": nil,
		// Screens.
		"-vnc :1":                    {"port 5901 of this host (tcp)"},
		"-vnc 127.0.0.1:2,websocket": {"port 5902 of this host (tcp)", "port 5702 of this host (tcp)"},
		"-vnc :1,to=9":               nil,
		"-vnc none":                  nil,
		"-vnc unix:/x/v":             {"the socket /x/v"},
		"-display vnc=:3":            {"port 5903 of this host (tcp)"},
		"-display none":              nil,
		"-spice port=5930,tls-port=5931,disable-ticketing=on": {"port 5930 of this host (tcp)", "port 5931 of this host (tcp)"},
		"-spice unix=on,addr=/x/spice":                        {"the socket /x/spice"},
		// Files, memory, devices.
		"-pidfile p -D log": {"the file /dir/p", "the file /dir/log"},
		"-object memory-backend-file,id=m,size=1G,mem-path=/dev/shm/m,share=on":             {"the memory in the file /dev/shm/m"},
		"-object memory-backend-file,id=m,size=1G,mem-path=/dev/shm/m,share=on,readonly=on": nil,
		"-object memory-backend-file,id=m,size=1G,mem-path=/x,share=off":                    nil,
		"-device vhost-vsock-pci,guest-cid=5":                                               {"the vsock address 5"},
		"-device vfio-pci,host=01:00.0":                                                     {"the host's device 01:00.0"},
		// Disks.
		"-hda d.img":                            {"the disk image /dir/d.img, which is written"},
		"d.img":                                 {"the disk image /dir/d.img, which is written"},
		"-hda d.img -snapshot":                  nil,
		"-drive file=/x/d,format=raw,if=virtio": {"the disk image /x/d, which is written"},
		"-drive file=/x/d,readonly=on":          nil,
		"-drive file=/x/d,media=cdrom":          nil,
		"-drive file=/x/d,snapshot=on":          nil,
		// Disks that are not named plainly, and those that are no files of this host.
		"-drive file=nbd://host/x":                                                                           {"the disk nbd://host/x, which is written"},
		"-hda nbd:unix:/run/n":                                                                               {"the disk nbd:unix:/run/n, which is written"},
		"-drive file=rbd:pool/img,readonly=on":                                                               nil,
		"-drive file=rbd:pool/img,format=raw":                                                                {"the disk rbd:pool/img, which is written"},
		"-drive file=iscsi://t/iqn/0 -snapshot":                                                              nil,
		"-drive file=file:/x/d,file.locking=off":                                                             {"the disk image /x/d, which is written"},
		"-drive driver=qcow2,file.filename=d":                                                                {"the disk image /dir/d, which is written"},
		"-drive file.driver=nbd,file.host=h,file.port=1":                                                     {"the disk nbd:host=h,port=1, which is written"},
		`-drive file=json:{"driver":"qcow2",,"file.filename":"/x/d"}`:                                        {"the disk image /x/d, which is written"},
		`-drive file=json:{"driver":"nbd",,"path":"/run/n"}`:                                                 {"the disk nbd:path=/run/n, which is written"},
		"-drive file=fat:rw:/x":                                                                              {"the disk fat:rw:/x, which is written"},
		"-drive file=fat:/x -drive file=null-co:// -cdrom /x/c":                                              nil,
		"-drive file=blkdebug::/x/d":                                                                         {"the disk image /x/d, which is written"},
		"-drive file=/x/d,id=d -device virtio-blk,drive=d,share-rw=on":                                       nil,
		"-blockdev driver=nbd,node-name=n,server.type=unix,server.path=/run/n":                               {`the disk nbd:server={"path":"/run/n","type":"unix"}, which is written`},
		`-blockdev {"driver":"raw","file":{"driver":"throttle","file":{"driver":"file","filename":"/x/d"}}}`: {"the disk image /x/d, which is written"},
		`-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"/x/d"},"backing":{"driver":"file","filename":"/x/b"}}`:      {"the disk image /x/d, which is written"},
		"-blockdev file,filename=/b,node-name=b -blockdev file,filename=/d,node-name=f -blockdev qcow2,file=f,backing=b,node-name=d": {"the disk image /d, which is written"},
		"-blockdev file,filename=/d,node-name=f -blockdev luks,file=f,node-name=l -blockdev raw,file=l,node-name=d,read-only=on":     nil,
		"-blockdev file,filename=/d,node-name=f -blockdev raw,file=f,node-name=d -device virtio-blk-pci,drive=d,share-rw=on":         nil,
		"-object memory-backend-file,id=m,mem-path=/n,share=on -device nvdimm,memdev=m,id=n":                                         {"the disk image /n, which is written"},
		"-object memory-backend-file,id=m,mem-path=/n,share=off -device nvdimm,memdev=m,id=n":                                        nil,
		"-chardev socket,id=t,path=/run/tpm -tpmdev emulator,id=t,chardev=t":                                                         {"the server at the socket /run/tpm"},
		"-chardev socket,id=t,path=/run/log -serial chardev:t":                                                                       nil,
		"-drive if=none,id=empty":                 nil,
		"-drive if=pflash,readonly=on,file=/code": nil,
		`-blockdev {"driver":"qcow2","node-name":"d","file":{"driver":"file","filename":"/x/d"}}`: {"the disk image /x/d, which is written"},
		"-blockdev driver=file,filename=/x/d,node-name=f -blockdev qcow2,file=f,node-name=d":      {"the disk image /x/d, which is written"},
		"-blockdev driver=file,filename=/x/d,node-name=f,read-only=on":                            nil,
		"-blockdev driver=file,filename=/x/d,node-name=f -blockdev qcow2,file=f,read-only=on":     nil,
	} {
		var got []string
		for _, e := range ParseArgs(strings.Fields(line)).Exclusive("/dir") {
			got = append(got, e.What)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// TestWithOverlay puts an overlay in the place of each disk.
func TestWithOverlay(t *testing.T) {
	for line, want := range map[string]string{
		"-hda d.img":                            "-hda /o",
		"d.img":                                 "/o",
		"-drive file=/x/d,format=raw,if=virtio": "-drive file=/o,format=qcow2,if=virtio",
		"-drive if=none,id=d,file=/x/d":         "-drive if=none,id=d,file=/o,format=qcow2",
		`-blockdev {"driver":"raw","file":{"driver":"file","filename":"/x/d"},"node-name":"d"}`: `-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"/o"},"node-name":"d"}`,
		"-blockdev driver=file,filename=/x/d,node-name=f -blockdev raw,file=f,node-name=d":      `-blockdev {"driver":"file","filename":"/o","node-name":"f"} -blockdev {"driver":"qcow2","file":"f","node-name":"d"}`,
	} {
		args := ParseArgs(strings.Fields(line))
		disks := args.Disks()
		if len(disks) != 1 {
			t.Errorf("%s: disks %+v", line, disks)
			continue
		}
		got, err := args.WithOverlay(disks[0], "/o")
		if err != nil || strings.Join(got.Words(), " ") != want {
			t.Errorf("%s: %q, %v, want %q", line, got.Words(), err, want)
		}
		if strings.Join(args.Words(), " ") != line {
			t.Errorf("%s was changed itself: %q", line, args.Words())
		}
	}
	for _, line := range []string{
		"-blockdev driver=file,filename=/x/d,node-name=f -device virtio-blk,drive=f",
		"-blockdev driver=file,filename=/x/d,node-name=f -blockdev raw,file=f,node-name=d,offset=512",
	} {
		args := ParseArgs(strings.Fields(line))
		if got, err := args.WithOverlay(args.Disks()[0], "/o"); err == nil || !strings.Contains(err.Error(), "{n}") {
			t.Errorf("%s: %q, %v, want an error", line, got.Words(), err)
		}
	}
}
