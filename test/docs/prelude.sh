# SPDX-License-Identifier: Apache-2.0
#
# What the commands in the documents find when they are run: bash reads it before each (BASH_ENV). RAMJET_DOCS_TEST is the test's
# directory.

# vm SOCKET ARGUMENT... starts a QEMU that runs its firmware.
vm() {
	local socket=$1
	shift
	mkdir -p "$(dirname "$socket")"
	"${RAMJET_QEMU:-qemu-system-x86_64}" -accel "${RAMJET_ACCEL:-tcg}" -nodefaults -m 64 -display none -qmp "unix:$socket,server=on,wait=off" "$@" 2>/dev/null &
	listens "$socket"
}

# listens waits until somebody does.
listens() {
	for _ in {1..200}; do
		[[ ! -S $1 ]] || return 0
		sleep 0.1
	done
	echo "nobody listens on $1"
	return 1
}

# stay runs a command that shall not end, and sees that it does not at once.
stay() {
	"$@" &
	local pid=$!
	sleep 2
	kill -0 $pid
}

readonly URI=qemu:///system

# domain NAME MONITOR starts a domain of libvirt with a second monitor. Where no daemon runs it starts those that this needs, until cleanup.
domain() {
	if ! virsh -c $URI version &>/dev/null; then
		local PATH=$PATH:/usr/sbin
		if [[ $(id -u) != 0 ]] || ! command -v virtlogd >/dev/null || ! command -v libvirtd >/dev/null; then
			echo "no libvirt daemon runs here that this user may use, and none can be started"
			return 77
		fi
		for d in virtlogd libvirtd; do
			$d </dev/null &>"$RAMJET_DOCS_TEST/$d.log" &
			echo $! >>"$RAMJET_DOCS_TEST/daemons"
		done
		for _ in {1..100}; do
			virsh -c $URI version &>/dev/null && break
			sleep 0.1
		done
	fi
	chmod a+rx "$RAMJET_DOCS_TEST" "$RAMJET_DOCS_TEST/.."
	mkdir -p "$(dirname "$2")"
	[[ $2 != "$RAMJET_DOCS_TEST"/* ]] || chmod 777 "$(dirname "$2")"
	cat >"$RAMJET_DOCS_TEST/$1.xml" <<-END
		<domain type='$([[ ${RAMJET_ACCEL:-tcg} == kvm ]] && echo kvm || echo qemu)' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
		  <name>$1</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
		  <os><type arch='x86_64' machine='pc'>hvm</type></os>
		  <devices><emulator>$(command -v qemu-system-x86_64)</emulator></devices>
		  <qemu:commandline><qemu:arg value='-qmp'/><qemu:arg value='unix:$2,server=on,wait=off'/></qemu:commandline>
		</domain>
	END
	virsh -c $URI create "$RAMJET_DOCS_TEST/$1.xml" && echo "$1" >"$RAMJET_DOCS_TEST/domain" && listens "$2"
}

# has_domain says whether domain could start it.
has_domain() {
	[[ -f $RAMJET_DOCS_TEST/domain ]] || {
		echo "there is no domain"
		return 77
	}
}

# cleanup ends what domain started.
cleanup() {
	if [[ -f $RAMJET_DOCS_TEST/domain ]]; then
		virsh -c $URI destroy "$(<"$RAMJET_DOCS_TEST/domain")" &>/dev/null
	fi
	if [[ -f $RAMJET_DOCS_TEST/daemons ]]; then
		# shellcheck disable=SC2046
		kill $(<"$RAMJET_DOCS_TEST/daemons")
	fi
	return 0
}
