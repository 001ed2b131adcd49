# SPDX-License-Identifier: Apache-2.0
#
#   make demo          see it: a Linux guest is saved, killed and restored, here
#   make test          all tests; those with a guest need QEMU, which it gets (scripts/setup)
#
#   make build         bin/ramjet, one static program
#   make unit          the tests without a guest
#   make bench         measure against QEMU and the disk
#   make conformance   the tests that compare with a real QEMU
#   make fuzz          every fuzz target for FUZZTIME (5s)
#   make lint          formatting, go vet, staticcheck
#   make setup         only get QEMU and a guest kernel
#   make clean         remove what was built, and the kernel

GO          ?= go
FUZZTIME    ?= 5s
TESTFLAGS   ?=
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.6.1

# The release and what came after it, or the commit.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w $(if $(VERSION),-X github.com/ramjet-vm/ramjet/snapshot.Version=$(VERSION))

# Packages whose tests start no guest, and those whose tests do.
UNIT  = $$($(GO) list ./... | grep -Ev '/test(/|$$)') ./test/guest
GUEST = $$($(GO) list ./test/... | grep -v '/test/guest$$')

# A machine that cannot have QEMU (status 3) is no failure: what needs it is skipped then, with the reason.
SETUP = scripts/setup; case $$? in 0) export RAMJET_NEED_QEMU=1 ;; 3) echo "going on without QEMU" ;; *) exit 1 ;; esac

.PHONY: build setup demo test unit bench conformance fuzz lint clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ramjet ./cmd/ramjet

setup:
	@scripts/setup

demo: build
	@$(SETUP); bin/ramjet demo

# Guests one package at a time: two emulated machines on few processors only wait for each other. -v, because their
# tests print what they measured.
test:
	@$(SETUP); $(MAKE) --no-print-directory unit && \
	$(GO) test -v -count=1 -p 1 -timeout 15m $(TESTFLAGS) $(GUEST)

unit:
	$(GO) test -count=1 -timeout 5m $(TESTFLAGS) $(UNIT)

bench: build setup
	bin/ramjet bench

conformance: setup
	RAMJET_NEED_QEMU=1 $(GO) test -v -count=1 -timeout 15m -run 'QEMU|Conformance' $(UNIT) $(GUEST)

fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

lint:
	@files=$$(gofmt -l .); test -z "$$files" || { echo "not formatted by gofmt:"; echo "$$files"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

clean:
	rm -rf bin .cache
