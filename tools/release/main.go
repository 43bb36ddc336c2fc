// Command release makes what is published of caddy-presence: packages for Linux
// distributions, container images, and the checksums of both. `make packages`,
// `make image` and `make release` run it, after they have built the binaries:
//
//	go -C tools/release run . -version 0.1.0 -commit 0123abc packages
//
// In the folder -dist it finds a binary and its bill of materials for each architecture,
// and it writes what it makes beside them:
//
//	caddy-presence_VERSION_linux_ARCH            the binary (as found)
//	caddy-presence_VERSION_linux_ARCH.cdx.json   its bill of materials (as found)
//	caddy-presence_VERSION_ARCH.deb, …           packages
//	caddy-presence_VERSION_oci.tar               an OCI layout for all architectures
//	caddy-presence_VERSION_docker_ARCH.tar       the same image for "docker load"
//	SHA256SUMS                                   for "sha256sum --check"
//
// All of it depends on the commit only: two runs on different days give the same bytes. It
// is a Go module apart from tools/, because nfpm requires a newer viper than the one that
// golangci-lint keeps to.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// architectures are those that everything is made for, as GOARCH names them.
var architectures = []string{"amd64", "arm64"}

// release is what a run makes.
type release struct {
	Root    string    // the checkout
	Dist    string    // the folder of all artefacts
	Version string    // semantic, without a "v"
	Commit  string    // of the checkout, for the image's labels
	Time    time.Time // of the commit: what artefacts carry instead of the time of the run
}

func main() {
	var r release
	var epoch int64
	flag.StringVar(&r.Root, "root", "../..", "the checkout: a `folder`")
	flag.StringVar(&r.Dist, "dist", "../../dist", "where binaries are, and artefacts go: a `folder`")
	flag.StringVar(&r.Version, "version", "", "the `version`, such as 0.1.0")
	flag.StringVar(&r.Commit, "commit", "", "the `commit` that is released")
	flag.Int64Var(&epoch, "epoch", 0, "the commit's time in `seconds` since 1970")
	flag.Parse()
	r.Time = time.Unix(epoch, 0).UTC()
	if err := r.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// run does what the words say, in their order.
func (r release) run(words []string) error {
	if r.Version == "" || r.Commit == "" || r.Time.Unix() == 0 {
		return fmt.Errorf("-version, -commit and -epoch are required")
	}
	steps := map[string]func() error{"packages": r.packages, "image": r.images, "checksums": r.checksums}
	for _, word := range words {
		step, ok := steps[word]
		if !ok {
			return fmt.Errorf("%q is none of packages, image and checksums", word)
		}
		if err := step(); err != nil {
			return fmt.Errorf("making %s: %w", word, err)
		}
	}
	return nil
}

// artefact is the path of a file in the folder of all artefacts.
func (r release) artefact(suffix string) string {
	return filepath.Join(r.Dist, "caddy-presence_"+r.Version+"_"+suffix)
}

// binary is the path of the program for an architecture.
func (r release) binary(arch string) string { return r.artefact("linux_" + arch) }

// bill is the path of the bill of materials of that program.
func (r release) bill(arch string) string { return r.binary(arch) + ".cdx.json" }

// say reports progress.
func say(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }
