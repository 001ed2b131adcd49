// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"slices"
	"strings"
	"testing"
)

func TestWithoutSecrets(t *testing.T) {
	for _, c := range []struct{ option, value, want string }{
		{"-object", "secret,id=s0,data=hunter2", "secret,id=s0,data=*"},
		{"-object", "secret,data=hunter2,,more,id=s0", "secret,data=*,id=s0"},
		{"-object", "qom-type=secret,id=s0,data=hunter2", "qom-type=secret,id=s0,data=*"},
		{"-object", "secret,id=s0,file=/etc/key", "secret,id=s0,file=/etc/key"},
		{"-object", "memory-backend-ram,id=m0,size=1G", "memory-backend-ram,id=m0,size=1G"},
		{"-object", `{"qom-type":"secret","id":"s0","data":"hunter2"}`, `{"data":"*","id":"s0","qom-type":"secret"}`},
		{"-object", `{"qom-type": "tls-creds-x509", "id": "t", "dir": "/etc/pki", "passwordid": "s0"}`, `{"qom-type": "tls-creds-x509", "id": "t", "dir": "/etc/pki", "passwordid": "s0"}`},
		{"-spice", "port=5900,password=hunter2", "port=5900,password=*"},
		{"-vnc", ":0,password=on", ":0,password=on"},
		{"-vnc", ":0,password-secret=s0", ":0,password-secret=s0"},
		{"-iscsi", "user=me,password=hunter2", "user=me,password=*"},
		{"-drive", "file=https://me:hunter2@host/disk.raw,format=raw", "file=https://me:*@host/disk.raw,format=raw"},
		{"-drive", "file=iscsi://me%hunter2@host/iqn/1", "file=iscsi://me%*@host/iqn/1"},
		{"-drive", "file=https://hunter2@host/x", "file=https://*@host/x"},
		{"-drive", "file=ssh://me@host/x", "file=ssh://me@host/x"},
		{"-drive", "file.driver=https,file.url=https://h/d,file.cookie=sid=hunter2", "file.driver=https,file.url=https://h/d,file.cookie=*"},
		{"-drive", "file=https://h/d?a=1&token=hunter2&b=2", "file=https://h/d?a=1&token=*&b=2"},
		{"-drive", "file=https://h/d?X-Amz-Signature=hunter2", "file=https://h/d?X-Amz-Signature=*"},
		{"-drive", "file=disk.qcow2,if=virtio,encrypt.key-secret=s0", "file=disk.qcow2,if=virtio,encrypt.key-secret=s0"},
		{"-blockdev", `{"driver":"https","url":"https://me:hunter2@h/d","node-name":"n","x":[{"password":"hunter2"}],"size":12345678901234567890}`,
			`{"driver":"https","node-name":"n","size":12345678901234567890,"url":"https://me:*@h/d","x":[{"password":"*"}]}`},
		{"-blockdev", `{"driver":"file","filename":"/x"}`, `{"driver":"file","filename":"/x"}`},
		{"-blockdev", `{"password": hunter2`, "*"},
		{"-cdrom", "http://me:hunter2@h/x.iso", "http://me:*@h/x.iso"},
		{"-append", "console=ttyS0 password=hunter2 root=/dev/vda ignition.token=hunter2 quiet", "console=ttyS0 password=* root=/dev/vda ignition.token=* quiet"},
		{"-append", "inst.ks=https://me:hunter2@h/ks quiet", "inst.ks=https://me:*@h/ks quiet"},
		{"-smbios", "type=11,value=io.systemd.credential:passwd.hashed-password.root=hunter2", "type=11,value=io.systemd.credential:passwd.hashed-password.root=*"},
		{"-smbios", "type=1,serial=ds=nocloud;s=http://h/", "type=1,serial=ds=nocloud;s=http://h/"},
		{"-fw_cfg", "name=opt/io.systemd.credentials/x,string=hunter2", "name=opt/io.systemd.credentials/x,string=*"},
		{"-fw_cfg", "name=opt/colour,string=blue", "name=opt/colour,string=blue"},
		{"-set", "device.x.password=hunter2", "device.x.password=*"},
		{"-m", "2G", "2G"},
		{"-name", "guest=a,,b,debug-threads=on", "guest=a,,b,debug-threads=on"},
		{"-device", "virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56", "virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56"},
		{"-nbd-like", "file=nbd+unix:///export?socket=/run/x.sock", "file=nbd+unix:///export?socket=/run/x.sock"},
	} {
		got := WithoutSecrets([]string{c.option, c.value})
		want := []string{c.option, strings.ReplaceAll(c.want, "*", Blank)}
		if !slices.Equal(got, want) {
			t.Errorf("%s %s\n becomes %s\n not     %s", c.option, c.value, got[1], want[1])
		}
		if strings.Contains(strings.Join(got, " "), "hunter2") {
			t.Errorf("a secret is left in %q", got)
		}
		if list := Blanked(got); (len(list) == 1) != strings.Contains(c.want, "*") {
			t.Errorf("of %q these are said to be blanked: %q", got, list)
		}
	}
}

func TestWithoutSecretsKeepsOthers(t *testing.T) {
	words := strings.Fields("-machine q35,accel=kvm -m 2G -nodefaults disk.img -drive if=none,file=a,,b.img,id=d -qmp unix:/run/x,server=on,wait=off -S")
	if got := WithoutSecrets(words); !slices.Equal(got, words) {
		t.Errorf("%q became %q", words, got)
	}
	if got := Blanked(words); got != nil {
		t.Errorf("blanked: %q", got)
	}
}
