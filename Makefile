# The house is several modules, so that the plugin's go.mod stays lean: whoever
# builds Caddy with us inherits every line of it. redis is optional, and the program
# in cmd/caddy-presence has all in it. Nobody runs the others but us.
CODE  := . redis cmd/caddy-presence integration tools tools/release
TOOLS := integration/dendrite

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

# What `make bench-micro` compares with, how often it runs both, and which benchmarks.
BASE ?= main
ROUNDS ?= 6
BENCH ?= .

# Caddy keeps its last configuration and its certificates in the user's folders.
# Only the test binaries get others: the go command finds the settings of
# `go env -w` by the same variables.
SCRATCH := $(CURDIR)/.cache/test
SCRATCH_ENV := env XDG_CONFIG_HOME=$(SCRATCH) XDG_DATA_HOME=$(SCRATCH)

# What `make build` writes, and `make sbom` beside it with .cdx.json at the end.
BINARY ?= caddy-presence

# The version is the first one in the changelog. Until it is released, it counts as older.
VERSION ?= $(shell sed -n -e 's/^## \([0-9][0-9.]*\) (unreleased)$$/\1-dev/p' -e 's/^## \([0-9][0-9.]*\) .*/\1/p' CHANGELOG.md | head -n 1)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
# Artefacts carry the commit's time, so that they depend on nothing else.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)

# The folder of all that is published, and who makes it there.
DIST ?= dist
RELEASE = go -C tools/release run . -root $(CURDIR) -dist $(abspath $(DIST)) \
	-version $(VERSION) -commit $(COMMIT) -epoch $(SOURCE_DATE_EPOCH)

.DEFAULT_GOAL := help
.PHONY: help build binaries packages image release release-test build-xcaddy sbom demo demo-cluster demo-synapse bench bench-micro bench-full relief relief-full soak world \
	test test-unit test-fuzz test-tools test-integration fuzz \
	lint lint-code lint-leaks lint-security lint-modules lint-caddyfile race-note

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The tags are those of Caddy's own releases and of xcaddy: they leave out the
# databases of the ACME server, 6 MB that nobody here uses.
build: ## build ./caddy-presence: Caddy with the module compiled in
	CGO_ENABLED=0 go -C cmd/caddy-presence build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' \
		-tags nobadger,nomysql,nopgx -o $(abspath $(BINARY)) .

build-xcaddy: ## build it from xcaddy.json with xcaddy instead
	go -C tools run ./xcaddy-build -config ../xcaddy.json -output ../caddy-presence

# Without a serial number and the time, the same binary gives the same file. The
# tool's own hash is in it, so the tool is built like the binary, the same
# everywhere.
sbom: export CGO_ENABLED = 0
sbom: export GOFLAGS := $(shell go env GOFLAGS) -trimpath
sbom: build ## list the modules in ./caddy-presence as caddy-presence.cdx.json (CycloneDX)
	@mkdir -p .cache
	tool=$$(env -u GOOS -u GOARCH go -C tools tool -n cyclonedx-gomod) && \
	"$$tool" bin -json -std -noserial -output .cache/sbom.json $(BINARY) && \
	sed '/^ *"timestamp": /d' .cache/sbom.json >$(BINARY).cdx.json

# The version of Go's own build information differs between checkouts (-buildvcs).
binaries: export GOFLAGS := $(shell go env GOFLAGS) -buildvcs=false
binaries: ## build the binaries that are published into dist/, with their bills of materials
	@set -e; mkdir -p $(DIST); for arch in amd64 arm64; do \
		echo "$$arch: the binary and its bill of materials"; \
		GOOS=linux GOARCH=$$arch $(MAKE) --no-print-directory sbom BINARY=$(DIST)/caddy-presence_$(VERSION)_linux_$$arch; \
	done

packages: binaries ## make deb, rpm and apk in dist/
	$(RELEASE) packages

image: binaries ## make the container image in dist/: an OCI layout, and archives for "docker load"
	$(RELEASE) image

release: binaries ## make all that is published in dist/: binaries, packages, images, checksums
	$(RELEASE) packages image checksums

# The second time in another checkout, in a folder of another name.
release-test: release ## make all of it twice, compare, and try it as an admin would (as root, in about ten minutes)
	@set -e; again=.cache/release/the-same-commit; rm -rf $$again; mkdir -p .cache/release; git worktree prune; \
	git worktree add --quiet --detach $$again HEAD; trap "git worktree remove --force $$again" EXIT; \
	$(MAKE) --no-print-directory -C $$again release DIST=$(CURDIR)/.cache/release/again; \
	cd integration && go test ./release -count=1 -v -timeout 60m -dist $(abspath $(DIST)) -again $(CURDIR)/.cache/release/again

demo: ## play a scene through the sidecar on a real homeserver (or on HOMESERVER=http://…)
	cd integration && go run ./demo

demo-cluster: ## play a scene through two nodes and a Redis, which is killed and brought back
	cd integration && go run ./demo --nodes

demo-synapse: ## start a Synapse, the sidecar, its page and a Prometheus, with traffic, to try docs/operations.md on
	cd integration && go run ./demo --synapse

bench: ## compare with bare Caddy, nginx, Varnish and others, in about two minutes
	cd integration && go run ./bench

bench-full: ## the same in about twenty minutes, and write its figures into docs/
	cd integration && go run ./bench -size full -docs ../docs

relief: ## play shapes of load against a Synapse and a Dendrite, without the sidecar and with it, in some minutes
	cd integration && go run ./bench/relief

relief-full: ## the same in about fifty minutes, with the caches of others, and write its figures into docs/
	cd integration && go run ./bench/relief -size full -docs ../docs

# Both take turns, since a shared machine is quicker now and slower then.
bench-micro: ## compare the plugin's micro-benchmarks with those of the commit BASE (main), in some minutes
	@set -e; base=.cache/bench/base; bench='go test -run ^$$ -bench $(BENCH) -benchmem -benchtime 0.2s -cpu 1,2 -p 1 ./...'; \
	rm -rf .cache/bench; mkdir -p .cache/bench; git worktree prune; \
	git worktree add --quiet --detach $$base $(BASE); trap "git worktree remove --force $$base" EXIT; \
	for round in $$(seq $(ROUNDS)); do \
		echo "round $$round of $(ROUNDS)"; \
		(cd $$base && $$bench) >>.cache/bench/old.txt; \
		$$bench >>.cache/bench/new.txt; \
	done; \
	$$(go -C tools tool -n benchstat) .cache/bench/old.txt .cache/bench/new.txt

soak: ## run mixed traffic, reloads and restarts for DURATION (10m), and watch what grows
	cd integration && go test ./survival -run TestSoak -duration $(DURATION) -timeout 0 -v $(SOAK)

world: ## draw worlds for DURATION (10m) and judge what happens in them by laws
	cd integration && go test ./world -run TestWorld -duration $(DURATION) -timeout 0 -v $(WORLD)

test: test-unit test-fuzz test-tools test-integration ## run every test; each package looks for goroutines that it leaves behind

# The twins don't survive the race detector, and it makes the long simulations of a plan last a minute.
test-unit: race-note ## run the tests of the plugin itself
	mkdir -p $(SCRATCH)
	go test $(RACE) -exec '$(SCRATCH_ENV)' $(TESTFLAGS) ./... ./redis/... ./cmd/caddy-presence/...
	$(if $(RACE),go test -exec '$(SCRATCH_ENV)' -run TestTwins $(TESTFLAGS) ./internal/gateway)
	$(if $(RACE),go test $(TESTFLAGS) ./internal/plan)

test-tools: race-note sbom ## build with xcaddy, and hold the bill of materials against the binary
	go -C tools test $(RACE) -count=1 -v $(TESTFLAGS) ./...

# Two packages at a time: most of them wait for servers longer than they compute. gotestsum shows both
# while they run, and says at the end what failed, and what was skipped and why.
test-integration: race-note ## run the tests on real homeservers, and all that runs the whole sidecar
	gotestsum=$$(go -C tools tool -n gotestsum) && cd integration && \
	"$$gotestsum" --format standard-verbose -- $(RACE) -count=1 -p 2 -timeout 15m $(TESTFLAGS) ./...

test-fuzz: ## fuzz each target briefly
	@$(MAKE) --no-print-directory fuzz FUZZTIME=5000x

fuzz: ## fuzz each target in turn (FUZZTIME=10m, or 20000x for so many inputs)
	@set -e; for package in ./internal/matrix ./policy ./cache ./redis/internal/replication; do \
		targets=$$(go test -list '^Fuzz' $$package); \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "$$package: $$target for $(FUZZTIME)"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 500x $$package; \
		done; \
	done

race-note:
	@$(if $(RACE),:,echo 'note: no C compiler, so the tests run without the race detector')

lint: lint-code lint-leaks lint-security lint-modules lint-caddyfile ## check code, modules and the example

# These compile what they check; with the flags of `build` they share its cache.
lint-code lint-security: export CGO_ENABLED = 0
lint-code lint-security: export GOFLAGS := $(shell go env GOFLAGS) -trimpath
lint-code: ## run what .golangci.yml says: gofmt, vet, staticcheck, gosec and others
	@set -e; golangci=$$(go -C tools tool -n golangci-lint); for dir in $(CODE); do \
		echo "$$dir: golangci-lint"; \
		(cd $$dir && "$$golangci" run ./...); \
	done

# Tests in a bubble of testing/synctest fail by themselves if a goroutine stays.
lint-leaks:
	@missing=$$(find . -name '*_test.go' -not -path './.cache/*' -exec dirname {} + | sort -u | while read -r dir; do \
		grep -qE 'goleak\.|bubble\.Run|suite\.Main' "$$dir"/*_test.go || echo "$$dir"; done); \
	[ -z "$$missing" ] || { echo "no TestMain that looks for goroutines left behind:"; echo "$$missing"; exit 1; }

# govulncheck is skipped, by name, where the first file of its database can't be
# reached; GOVULNDB names another one, which has to be there.
lint-security: ## look for known vulnerabilities in what users build
	@echo govulncheck; status=0; \
	said=$$("$$(go -C tools tool -n govulncheck)" $${GOVULNDB:+-db "$$GOVULNDB"} ./... 2>&1) || status=$$?; \
	case "$$GOVULNDB $$status $$said" in \
	" 1 "*"fetching vulnerabilities: "*/index/*) echo "SKIPPED: the vulnerability database can't be reached (GOVULNDB names another): $$said" ;; \
	*) echo "$$said"; exit $$status ;; \
	esac

lint-modules:
	@set -e; for dir in $(CODE) $(TOOLS); do \
		echo "$$dir: go mod tidy -diff, go mod verify"; \
		go -C $$dir mod tidy -diff; \
		go -C $$dir mod verify; \
	done

lint-caddyfile: build
	./caddy-presence fmt Caddyfile.example >/dev/null
