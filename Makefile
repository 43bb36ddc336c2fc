# The house is several modules, so that the plugin's go.mod stays lean: whoever
# builds Caddy with us inherits every line of it.
CODE  := . cmd/xcaddy-build integration integration/bench integration/soak tools tools/sbom
TOOLS := integration/dendrite
# What users build; nobody runs the others but us.
SHIPPED := . cmd/xcaddy-build

# The race detector needs cgo, and so a C compiler.
RACE := $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# Extra flags for every `go test`, such as TESTFLAGS=-v.
TESTFLAGS ?=

# How long `make fuzz` tries each target: a duration, or a number of inputs such as
# 20000x, for which a slow machine takes longer but does the same.
FUZZTIME ?= 1m

# How long `make soak` lasts, and its other flags, such as SOAK='-docs ../../docs'.
DURATION ?= 10m
SOAK ?=

# Caddy keeps its last configuration and its certificates in the user's folders.
# Only the test binaries get others: the go command finds the settings of
# `go env -w` by the same variables.
SCRATCH := $(CURDIR)/.cache/test
SCRATCH_ENV := env XDG_CONFIG_HOME=$(SCRATCH) XDG_DATA_HOME=$(SCRATCH)

.DEFAULT_GOAL := help
.PHONY: help build build-xcaddy sbom demo bench bench-micro bench-full relief relief-full soak world \
	test test-unit test-xcaddy test-bench test-leaks test-fuzz test-tools test-soak test-integration fuzz \
	lint lint-format lint-code lint-security lint-modules lint-caddyfile race-note

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The tags are those of Caddy's own releases and of xcaddy: they leave out the
# databases of the ACME server, 6 MB that nobody here uses.
build: ## build ./caddy-presence: Caddy with the module compiled in
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -tags nobadger,nomysql,nopgx \
		-o caddy-presence ./cmd/caddy-presence

build-xcaddy: ## build it from xcaddy.json with xcaddy instead
	go -C cmd/xcaddy-build run . --config ../../xcaddy.json --output ../../caddy-presence

# Without a serial number and the time, the same binary gives the same file. The
# tool's own hash is in it, so the tool is built like the binary, the same
# everywhere.
sbom: export CGO_ENABLED = 0
sbom: export GOFLAGS := $(shell go env GOFLAGS) -trimpath
sbom: build ## list the modules in ./caddy-presence as caddy-presence.cdx.json (CycloneDX)
	@mkdir -p .cache
	tool=$$(go -C tools/sbom tool -n cyclonedx-gomod) && \
	"$$tool" bin -json -std -noserial -output .cache/sbom.json caddy-presence && \
	sed '/^ *"timestamp": /d' .cache/sbom.json >caddy-presence.cdx.json

demo: ## play a scene through the sidecar on a real homeserver (or on HOMESERVER=http://…)
	cd integration && go run ./demo

bench: ## compare with bare Caddy, nginx, Varnish and others, in about three minutes
	cd integration/bench && go run .

bench-full: ## the same in about half an hour, and write its figures into docs/
	cd integration/bench && go run . -size full -docs ../../docs

relief: ## play shapes of load against a Synapse and a Dendrite, without the sidecar and with it, in some minutes
	cd integration/bench && go run ./relief

relief-full: ## the same in about twenty minutes, and write its figures into docs/
	cd integration/bench && go run ./relief -size full -docs ../../docs

bench-micro: ## compare the plugin's micro-benchmarks with their baseline, in some minutes
	cd integration && go run ./microbench

soak: ## run mixed traffic, reloads and restarts for DURATION (10m), and watch what grows
	cd integration/soak && go run . -duration $(DURATION) $(SOAK)

world: ## draw worlds for DURATION (10m) and judge what happens in them by laws
	cd integration && go test ./world -run TestWorld -duration $(DURATION) -timeout 0 -v $(WORLD)

# Not test-unit, test-xcaddy and test-bench: test-leaks runs the same tests.
test: test-leaks test-fuzz test-tools test-soak test-integration ## run every test, and look for leaked goroutines

test-unit: race-note ## run the tests of the plugin itself
	mkdir -p $(SCRATCH)
	go test $(RACE) -exec '$(SCRATCH_ENV)' $(TESTFLAGS) ./...

test-xcaddy: race-note ## run the tests of the xcaddy loader; one builds the whole of Caddy
	go -C cmd/xcaddy-build test $(RACE) -count=1 -v $(TESTFLAGS) ./...

# Not the peers: they are all of Caddy once more, with nothing of ours to test.
test-bench: race-note ## run the tests of the benchmark's own parts
	go -C integration/bench test $(RACE) $(TESTFLAGS) . ./internal/... ./relief

test-leaks: race-note ## run the tests of these three, each package with goleak
	mkdir -p $(SCRATCH)
	cd integration && go run ./leakcheck .. $(RACE) -exec '$(SCRATCH_ENV)' $(TESTFLAGS)
	$(if $(RACE),go test -exec '$(SCRATCH_ENV)' -run TestTwins $(TESTFLAGS) ./caddymodule)
	cd integration && go run ./leakcheck ../cmd/xcaddy-build $(RACE) -count=1 -v $(TESTFLAGS)
	cd integration && go run ./leakcheck bench $(RACE) $(TESTFLAGS)

test-tools: race-note sbom ## run the tests of the checks, and of the bill of materials
	go -C tools test $(RACE) $(TESTFLAGS) ./...
	go -C tools/sbom test $(RACE) -count=1 -v $(TESTFLAGS) ./...

# One package at a time, so that servers don't take each other's processors, and
# so that the output, with what was skipped and why, appears while it runs.
test-integration: race-note ## run the tests on real homeservers
	go -C integration test $(RACE) -count=1 -p 1 -v -timeout 15m $(TESTFLAGS) ./...

test-soak: race-note ## run the soak in brief
	go -C integration/soak test $(RACE) -count=1 -v $(TESTFLAGS) ./...

test-fuzz: ## fuzz each target briefly
	@$(MAKE) --no-print-directory fuzz FUZZTIME=5000x

fuzz: ## fuzz each target in turn (FUZZTIME=10m, or 20000x for so many inputs)
	@set -e; for package in ./policy ./cache; do \
		targets=$$(go test -list '^Fuzz' $$package); \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "$$package: $$target for $(FUZZTIME)"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 500x $$package; \
		done; \
	done

race-note:
	@$(if $(RACE),:,echo 'note: no C compiler, so the tests run without the race detector')

lint: lint-format lint-code lint-security lint-modules lint-caddyfile ## check format, code, security, modules and the example

lint-format:
	@echo 'gofmt -l .'
	@files=$$(gofmt -l .) && { [ -z "$$files" ] || { echo "not formatted (gofmt -w fixes it):"; echo "$$files"; exit 1; }; }

# All of these compile what they check; with the flags of `build` they share its
# cache.
lint-code lint-security: export CGO_ENABLED = 0
lint-code lint-security: export GOFLAGS := $(shell go env GOFLAGS) -trimpath
lint-code:
	@set -e; staticcheck=$$(go -C tools tool -n staticcheck); \
	for dir in $(CODE); do \
		echo "$$dir: go vet, staticcheck"; \
		go -C $$dir vet ./...; \
		(cd $$dir && "$$staticcheck" ./...); \
	done

# govulncheck is skipped, by name, where its database can't be reached; GOVULNDB
# names another one.
lint-security: ## look for weak code with gosec, and for known vulnerabilities with govulncheck
	@go -C tools run ./gosec $(patsubst %/.,%,$(addprefix ../,$(CODE)))
	@go -C tools run ./vulnerabilities $(patsubst %/.,%,$(addprefix ../,$(SHIPPED)))

lint-modules:
	@go -C tools run ./dependencies ..
	@set -e; for dir in $(CODE) $(TOOLS); do \
		echo "$$dir: go mod tidy -diff, go mod verify"; \
		go -C $$dir mod tidy -diff; \
		go -C $$dir mod verify; \
	done

lint-caddyfile: build
	./caddy-presence fmt Caddyfile.example >/dev/null
