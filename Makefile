# afloat: see README.md. Every target sets up what it needs.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X afloat/internal/cli.Version=$(VERSION) -X afloat/internal/agent.Version=$(VERSION)
FUZZTIME ?= 30s
# 6.1.0-55 is what the tests of real fixes are about; its cloud flavour is the wrong kernel of the same version.
TEST_KITS := debian:6.1.0-55-amd64 debian:6.1.0-55-cloud-amd64

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install the Debian packages that are missing (says which)
	@scripts/setup

.PHONY: build
build: ## bin/afloat, bin/afloat-agent and the lab's guest helper
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/lab-guest ./internal/lab/guest

.PHONY: demo
demo: setup build ## the main job on real kernels: a fix under traffic, then a bad one that stops itself
	bin/afloat lab demo $(if $(AFLOAT_KERNEL),--kernel $(AFLOAT_KERNEL))

.PHONY: test
test: export AFLOAT_WITHOUT_KIT := $(CURDIR)/out/without-kit
test: setup build kits ## every test that fits 25 minutes
	@mkdir -p out && : >$$AFLOAT_WITHOUT_KIT
	$(GO) test -race -shuffle=on -timeout 15m $$($(GO) list ./... | grep -v '/internal/lab')
	$(GO) test -run '^TestSoak$$' -timeout 15m ./internal/sim
	$(GO) test -p 1 -shuffle=on -timeout 20m ./internal/lab/...
	@if [ -s $$AFLOAT_WITHOUT_KIT ]; then echo 'make test: skipped, for want of a kernel:'; sort $$AFLOAT_WITHOUT_KIT; \
	  else echo 'make test: no test was skipped for want of a kernel'; fi

.PHONY: kits
kits: build ## fetch the kits that tests use; without an archive the tests that need them are skipped, and named
	@scripts/kits $(TEST_KITS)

.PHONY: check
check: ## what a change must pass before it is committed, quick tests only
	@test -z "$$(gofmt -l cmd internal)" || { gofmt -l cmd internal; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) fix -diff ./...
	$(GO) test -race -shuffle=on -short ./...

.PHONY: bench
bench: setup build ## one line per figure: bench NAME VALUE UNIT
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/bench-applier ./internal/lab/bench/applier
	bin/afloat lab bench
	@$(MAKE) --no-print-directory bench-plan

# All 978 files take less than an hour on two cores; CORPUS_SAMPLE=200 takes some by a fixed seed.
CORPUS_SAMPLE ?= 0

.PHONY: corpus
corpus: setup build ## a live patch from each of the 978 files that Debian changed, built and loaded (under an hour)
	bin/afloat lab corpus --sample $(CORPUS_SAMPLE) --seed 1 -j 2 -o docs/corpus.md

.PHONY: patches
# Of the rt kernels the newest whose source package could be had: mirrors drop sources early.
patches: TEST_KITS += debian:6.12.117+deb12-amd64 debian:6.1.0-53-rt-amd64 debian:6.12.107+deb12-rt-amd64
patches: setup build kits ## live patches written by hand, one for each feature and each kind of refusal, on several kernels, built and loaded (five minutes)
	AFLOAT_PATCHES=1 $(GO) test -count=1 -p 1 -timeout 40m -v ./internal/lab/patches ./internal/kit

SERIES ?= 5.10 6.18

.PHONY: series
series: ## the same patches on the oldest and the newest series of kernels, in folders of their Debian releases (root, ten minutes)
	@set -e; for s in $(SERIES); do scripts/series $$s; done

.PHONY: bench-gate
bench-gate: ## how often the crash gate stops good patches, and how early bad ones (a few minutes)
	$(GO) run ./internal/sim/gatebench

.PHONY: soak
soak: ## a million random rollouts against what must always hold (under an hour)
	@# in its own folder go test shows what is printed at once: how far it is, and which seed broke
	cd internal/sim && GOGC=off GOMEMLIMIT=100MiB AFLOAT_SOAK=1000000 $(GO) test -run '^TestSoak$$' -timeout 120m

.PHONY: bench-plan
bench-plan: ## planner and simulator at a million hosts
	$(GO) test ./internal/plan -run '^TestMakespan' -bench Million -benchtime 1x | grep '^bench '
	$(GO) test ./internal/sim -run '^$$' -bench Million -benchtime 1x -timeout 30m | grep '^bench '

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 30s)
	@set -e; for f in $$(grep -rl --include='*_test.go' '^func Fuzz' internal); do \
	  for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' $$f); do \
	    echo "fuzz $$(dirname $$f) $$t"; $(GO) test ./$$(dirname $$f) -run '^$$' -fuzz "^$$t$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x; \
	  done; done

.PHONY: clean
clean: ## remove what was built (the kit cache stays)
	rm -rf bin out
