# SPDX-License-Identifier: Apache-2.0
#
#   make demo          see it: a Linux guest is saved, killed and restored, here
#   make test          all tests; those with a guest need QEMU, which it gets (scripts/setup)
#                      ACCEL=kvm: under KVM (conformance and bench too)
#
#   make build         bin/ramjet, one static program
#   make unit          the tests without a guest
#   make race          the same with Go's race detector
#   make bench         measure against QEMU and the disk; BENCH='-help' lists what can be asked of it
#   make conformance   the tests that compare with a real QEMU
#   make test QEMU=PROGRAM   the same on another QEMU; scripts/other-qemu gets one
#   make soak          what is too long for every run: 1,000 saves and 1,000 restores that are killed, each call failing in each way, all kinds of VM
#   make fuzz          every fuzz target for FUZZTIME (5s)
#   make lint          formatting, go vet, staticcheck
#   make setup         only get QEMU and a guest kernel
#   make install       the program, man pages, completions and systemd unit, under PREFIX (/usr/local) in DESTDIR
#   make deb           a Debian package of the same, bin/ramjet_VERSION_amd64.deb
#   make clean         remove what was built, and the kernel

GO          ?= go
QEMU        ?=
# Guests run on tcg unless this says kvm.
ACCEL       ?= $(RAMJET_ACCEL)
export RAMJET_ACCEL := $(ACCEL)
FUZZTIME    ?= 5s
TESTFLAGS   ?=
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.6.1

# The release and what came after it, or the commit.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
BUILD   := -X github.com/ramjet-vm/ramjet/image
LDFLAGS := -s -w $(if $(VERSION),$(BUILD).Version=$(VERSION) \
	$(BUILD).Commit=$(shell git rev-parse HEAD) $(BUILD).CommitTime=$(shell git log -1 --format=%cI))

# What is built is of the commit's time, so that building it again makes the same.
export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
# A Debian version begins with a digit.
export DEB_VERSION := $(or $(shell echo '$(VERSION)' | sed -n 's/^v\([0-9].*\)/\1/p' | tr - +),0~$(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y%m%d)+$(or $(VERSION),unknown))
DEB_VERSION := $(subst -,+,$(DEB_VERSION))

PREFIX  ?= /usr/local
NFPM    := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2

# What came of the tests, what was skipped too. STRICT=1: a skip that is not expected is a failure. RECORD=1: the run goes into the
# documents, "What was run where". All that the tests say, what they measured too, is in bin/tests.json.
REPORT = mkdir -p bin && $(GO) run ./test/report -log bin/tests.json $(if $(STRICT),-strict) $(if $(RECORD),-record 'make $@')

# Packages whose tests start no guest, and those whose tests do.
LIGHT = ./test/guest ./test/house ./test/report
UNIT  = $$($(GO) list ./... | grep -Ev '/test(/|$$)') $(LIGHT)
# The longest first: two packages run at a time.
LONG  = ./test/e2e ./test/faults
GUEST = $(LONG) $$($(GO) list ./test/... | grep -Ev '/test/(guest|house|report|e2e|faults)$$')

# A machine that cannot have QEMU (status 3) is no failure: what needs it is skipped then, with the reason.
SETUP = scripts/setup; case $$? in 0) export RAMJET_NEED_QEMU=1 ;; 3) echo "going on without QEMU" ;; *) exit 1 ;; esac

# The QEMU of tests and benchmarks, if it is not the one in PATH.
ifneq ($(QEMU),)
export RAMJET_QEMU := $(if $(findstring /,$(QEMU)),$(abspath $(QEMU)),$(QEMU))
endif

.PHONY: race build package install deb setup demo test unit bench scale conformance soak fuzz lint clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ramjet ./cmd/ramjet

package: build
	@rm -rf bin/package
	$(GO) run -ldflags '$(LDFLAGS)' ./scripts/gen bin/package
	@gzip -9n bin/package/man/*.1

install: package
	install -D -m 755 bin/ramjet $(DESTDIR)$(PREFIX)/bin/ramjet
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 bin/package/man/*.1.gz $(DESTDIR)$(PREFIX)/share/man/man1/
	install -D -m 644 bin/package/completions/ramjet.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/ramjet
	install -D -m 644 bin/package/completions/ramjet.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_ramjet
	install -D -m 644 bin/package/completions/ramjet.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/ramjet.fish
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 644 packaging/ramjet-serve@.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/
	sed 's|/usr/bin/ramjet|$(PREFIX)/bin/ramjet|' packaging/ramjet-serve@.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/ramjet-serve@.service

deb: package
	$(GO) run $(NFPM) package --config packaging/nfpm.yaml --packager deb --target bin/

setup:
	@scripts/setup

demo: build
	@$(SETUP); $(GO) run ./test/demo

# At most a quarter of an hour on two processors. Two packages with guests at a time: an emulated machine keeps one processor busy.
test:
	@$(SETUP); $(REPORT) -- $(GO) test -json -count=1 -timeout 5m $(TESTFLAGS) $(UNIT) \
		-- $(GO) test -json -count=1 -p 2 -timeout 20m $(TESTFLAGS) $(GUEST)

unit:
	$(GO) test -count=1 -timeout 5m $(TESTFLAGS) $(UNIT)

bench: build setup
	$(GO) run ./test/bench $(BENCH)

# What docs/scale.md stands on: a quarter of an hour, as root.
scale: build setup
	$(GO) run ./test/scale

conformance: setup
	@export RAMJET_NEED_QEMU=1; $(REPORT) -- $(GO) test -json -count=1 -timeout 15m -run 'QEMU|Conformance' $(UNIT) $(GUEST)

# The tests without a guest, with Go's race detector, which needs a C compiler.
race:
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 15m $(UNIT)

# What is too long for every run of the tests.
soak: build
	@scripts/setup
	RAMJET_NEED_QEMU=1 RAMJET_LONG=1 RAMJET_KILLS=1000 $(GO) test -v -count=1 -timeout 120m -run 'TestKill|TestMatrix|TestLive|TestResources|TestAnyVM' ./test/e2e
	RAMJET_NEED_QEMU=1 RAMJET_LONG=1 $(GO) test -v -count=1 -timeout 90m ./test/faults ./qmp

fuzz:
	GO=$(GO) scripts/fuzz $(FUZZTIME)

lint:
	@files=$$(gofmt -l .); test -z "$$files" || { echo "not formatted by gofmt:"; echo "$$files"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

clean:
	rm -rf bin .cache
