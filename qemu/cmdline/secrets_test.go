// SPDX-License-Identifier: Apache-2.0

package cmdline

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
		// Issue 15, point 17.
		{"-fw_cfg", "name=opt/colour,string=hunter2", "name=opt/colour,string=*"},
		{"-fw_cfg", "opt/com.coreos/config,string={\"passwordHash\": \"hunter2\",, \"a\": 1}", "opt/com.coreos/config,string=*"},
		{"-fw_cfg", "name=opt/com.coreos/config,file=/etc/ignition.json", "name=opt/com.coreos/config,file=/etc/ignition.json"},
		{"-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string=65536", "name=opt/ovmf/X-PciMmio64Mb,string=65536"},
		{"-smbios", "type=11,value=hunter2", "type=11,value=*"},
		{"-smbios", "type=11,value=a,value=hunter2,path=/x", "type=11,value=*,value=*,path=/x"},
		{"-smbios", "type=1,serial=ds=nocloud;password=hunter2;s=http://h/", "type=1,serial=ds=nocloud;password=*;s=http://h/"},
		{"-smbios", "type=1,manufacturer=QEMU,product=a b", "type=1,manufacturer=QEMU,product=a b"},
		{"-device", "isa-applesmc,osk=hunter2 (c) a,, b", "isa-applesmc,osk=*"},
		{"-device", `{"driver":"isa-applesmc","osk":"hunter2"}`, `{"driver":"isa-applesmc","osk":"*"}`},
		{"-global", "driver=isa-applesmc,property=osk,value=hunter2", "driver=isa-applesmc,property=osk,value=*"},
		{"-global", "driver=x,property=password,value=hunter2", "driver=x,property=password,value=*"},
		{"-global", "isa-applesmc.osk=hunter2", "isa-applesmc.osk=*"},
		{"-global", "driver=cfi.pflash01,property=secure,value=on", "driver=cfi.pflash01,property=secure,value=on"},
		{"-global", "migration.mapped-ram=on", "migration.mapped-ram=on"},
		{"-drive", "file=rbd:pool/img:id=u:key=hunter2==:mon_host=a\\:6789,format=raw", "file=rbd:pool/img:id=u:key=*:mon_host=a\\:6789,format=raw"},
		{"-drive", `file=rbd:pool/img:key=hun\:hunter2\:2:conf=/etc/ceph.conf,if=virtio`, `file=rbd:pool/img:key=*:conf=/etc/ceph.conf,if=virtio`},
		{"-hda", "rbd:pool/img:key=hunter2", "rbd:pool/img:key=*"},
		{"-drive", `file=json:{"driver":"https",, "url":"https://h/d",, "password":"hunter2"},if=virtio`,
			`file=json:{"driver":"https",,"password":"*",,"url":"https://h/d"},if=virtio`},
		{"-hda", `json:{"driver":"https","url":"https://u:hunter2@h/d"}`, `json:{"driver":"https","url":"https://u:*@h/d"}`},
		{"-hda", `json:{"driver":"https", hunter2`, `json:*`},
		{"-blockdev", `{"driver":"qcow2","file":"json:{\"cookie\":\"hunter2\"}"}`, `{"driver":"qcow2","file":"json:{\"cookie\":\"*\"}"}`},
		{"-blockdev", `{"driver":"x","password":123,"tokens":["hunter2",{"a":"hunter2"}]}`, `{"driver":"x","password":"*","tokens":["*",{"a":"*"}]}`},
		{"-blockdev", `{"driver":"rbd","=keyvalue-pairs":"[\"key\",\"hunter2\"]"}`, `{"=keyvalue-pairs":"*","driver":"rbd"}`},
		{"-blockdev", `{"driver":"luks","key-secret":"s0"}`, `{"driver":"luks","key-secret":"s0"}`},
		{"-drive", "file=http://u:p@hunter2@h/disk", "file=http://u:*@h/disk"},
		{"-drive", "file=http://u:hunter2@a@b@h/disk@2", "file=http://u:*@h/disk@2"},
		{"-append", `console=ttyS0 x.password="a hunter2 b" quiet`, `console=ttyS0 x.password=* quiet`},
		{"-append", `x.password='a hunter2 b' "y.token=a hunter2" quiet`, `x.password=* "y.token=*" quiet`},
		{"-append", `wifi_psk=hunter2 rootpw=hunter2 ssh_pwd=hunter2 authkey=hunter2`, `wifi_psk=* rootpw=* ssh_pwd=* authkey=*`},
		{"-append", `systemd.set_credential=a:hunter2 ds=nocloud;seed=x;password=hunter2`, `systemd.set_credential=* ds=nocloud;seed=x;password=*`},
		{"-append", `x.password="a hunter2`, `x.password=*`},
		{"-append", `root=UUID=1234 rd.luks.uuid=luks-1 ip=1.2.3.4::1.2.3.1 tsc=reliable "a=b c"`, `root=UUID=1234 rd.luks.uuid=luks-1 ip=1.2.3.4::1.2.3.1 tsc=reliable "a=b c"`},
		{"-machine", "q35,kernel=/vmlinuz,append=console=ttyS0 password=hunter2,accel=kvm", "q35,kernel=/vmlinuz,append=console=ttyS0 password=*,accel=kvm"},
		{"-netdev", "user,id=n,guestfwd=tcp:10.0.2.100:80-cmd:get --token=hunter2", "user,id=n,guestfwd=tcp:10.0.2.100:80-cmd:get --token=*"},
		{"-netdev", "user,id=n,hostfwd=tcp::2222-:22,smb=/srv", "user,id=n,hostfwd=tcp::2222-:22,smb=/srv"},
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
