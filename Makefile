# afloat: see README.md. Every target sets up what it needs.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X afloat/internal/cli.Version=$(VERSION)

.PHONY: build
build: ## bin/afloat and bin/afloat-agent
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: clean
clean: ## remove what was built (the kit cache stays)
	rm -rf bin out
