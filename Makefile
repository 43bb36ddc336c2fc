# The house is several modules, so that the plugin's go.mod stays lean: whoever
# builds Caddy with us inherits every line of it.
CODE  := . cmd/xcaddy-build integration integration/bench
TOOLS := tools integration/dendrite

# The race detector needs cgo, and so a C compiler.
RACE := $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# Extra flags for every `go test`, such as TESTFLAGS=-v.
TESTFLAGS ?=

# Caddy keeps its last configuration and its certificates in the user's folders.
# Only the test binaries get others: the go command finds the settings of
# `go env -w` by the same variables.
SCRATCH := $(CURDIR)/.cache/test
SCRATCH_ENV := env XDG_CONFIG_HOME=$(SCRATCH) XDG_DATA_HOME=$(SCRATCH)

.DEFAULT_GOAL := help
.PHONY: help build build-xcaddy demo bench bench-micro bench-full \
	test test-unit test-xcaddy test-bench test-integration \
	lint lint-format lint-code lint-modules lint-caddyfile race-note

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The tags are those of Caddy's own releases and of xcaddy: they leave out the
# databases of the ACME server, 6 MB that nobody here uses.
build: ## build ./caddy-presence: Caddy with the module compiled in
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -tags nobadger,nomysql,nopgx \
		-o caddy-presence ./cmd/caddy-presence

build-xcaddy: ## build it from xcaddy.json with xcaddy instead
	go -C cmd/xcaddy-build run . --config ../../xcaddy.json --output ../../caddy-presence

demo: ## play a scene through the sidecar on a real homeserver (or on HOMESERVER=http://…)
	cd integration && go run ./demo

bench: ## compare with bare Caddy, nginx, Varnish and others, in about three minutes
	cd integration/bench && go run .

bench-full: ## the same in about half an hour, and write its figures into docs/
	cd integration/bench && go run . -size full -docs ../../docs

bench-micro: ## compare the plugin's micro-benchmarks with their baseline, in some minutes
	cd integration && go run ./microbench

test: test-unit test-xcaddy test-bench test-integration ## run every test

test-unit: race-note ## run the tests of the plugin itself
	mkdir -p $(SCRATCH)
	go test $(RACE) -exec '$(SCRATCH_ENV)' $(TESTFLAGS) ./...

test-xcaddy: ## run the tests of the xcaddy loader; one builds the whole of Caddy
	go -C cmd/xcaddy-build test -count=1 -v $(TESTFLAGS) ./...

# Not the peers: they are all of Caddy once more, with nothing of ours to test.
test-bench: ## run the tests of the benchmark's own parts
	go -C integration/bench test $(TESTFLAGS) . ./internal/...

# One package at a time, so that servers don't take each other's processors, and
# so that the output, with what was skipped and why, appears while it runs.
test-integration: race-note ## run the tests on real homeservers
	go -C integration test $(RACE) -count=1 -p 1 -v -timeout 15m $(TESTFLAGS) ./...

race-note:
	@$(if $(RACE),:,echo 'note: no C compiler, so the tests run without the race detector')

lint: lint-format lint-code lint-modules lint-caddyfile ## check format, code, modules and the example

lint-format:
	@echo 'gofmt -l .'
	@files=$$(gofmt -l .) && { [ -z "$$files" ] || { echo "not formatted (gofmt -w fixes it):"; echo "$$files"; exit 1; }; }

# Both compile what they check; with the flags of `build` they share its cache.
lint-code: export CGO_ENABLED = 0
lint-code: export GOFLAGS := $(shell go env GOFLAGS) -trimpath
lint-code:
	@set -e; staticcheck=$$(go -C tools tool -n staticcheck); \
	for dir in $(CODE); do \
		echo "$$dir: go vet, staticcheck"; \
		go -C $$dir vet ./...; \
		(cd $$dir && "$$staticcheck" ./...); \
	done

lint-modules:
	@set -e; for dir in $(CODE) $(TOOLS); do \
		echo "$$dir: go mod tidy -diff, go mod verify"; \
		go -C $$dir mod tidy -diff; \
		go -C $$dir mod verify; \
	done

lint-caddyfile: build
	./caddy-presence fmt Caddyfile.example >/dev/null
