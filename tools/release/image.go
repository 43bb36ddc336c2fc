package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const (
	// imageName is what "docker load" calls the image, before the version.
	imageName = "caddy-presence"
	// imageUser runs the program. Its group is root's, as in other rootless images: a
	// platform that gives it another number keeps the group.
	imageUser = 1001
	// imageProgram is where the program is in the image, as in packages.
	imageProgram = "/usr/bin/caddy-presence"
)

// images makes the image for each architecture: for "docker load" one archive each, for
// everything else one OCI layout with all of them. It needs no daemon and no base image.
func (r release) images() error {
	index := v1.ImageIndex(empty.Index)
	index = mutate.IndexMediaType(index, types.OCIImageIndex)
	for _, arch := range architectures {
		image, err := r.image(arch)
		if err != nil {
			return fmt.Errorf("the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
		tag, err := name.NewTag(imageName + ":" + r.Version)
		if err != nil {
			return err
		}
		file := r.artefact("docker_" + arch + ".tar")
		say("%s", file)
		if err := tarball.WriteToFile(file, tag, image); err != nil {
			return err
		}
	}
	file := r.artefact("oci.tar")
	say("%s", file)
	return r.writeLayout(index, file)
}

// image makes the image for an architecture: a layer of what seldom changes, and one with
// the program.
func (r release) image(arch string) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	for _, files := range []func(string) ([]entry, error){r.baseFiles, r.programFiles} {
		entries, err := files(arch)
		if err != nil {
			return nil, err
		}
		content, err := r.tar(entries)
		if err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(content)), nil
		}, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		image, err = mutate.Append(image, mutate.Addendum{
			Layer:   layer,
			History: v1.History{Created: v1.Time{Time: r.Time}, CreatedBy: "make image"},
		})
		if err != nil {
			return nil, err
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: r.Time}
	config.Config = r.imageConfig()
	return mutate.ConfigFile(image, config)
}

// imageConfig is how the image is run. contrib/image/Dockerfile says the same.
func (r release) imageConfig() v1.Config {
	config := v1.Config{
		User: fmt.Sprintf("%d:0", imageUser),
		Env: []string{
			"PATH=/usr/bin",
			"XDG_CONFIG_HOME=/config",
			"XDG_DATA_HOME=/data",
		},
		Entrypoint:   []string{imageProgram},
		Cmd:          []string{"run", "--config", "/etc/caddy-presence/Caddyfile", "--adapter", "caddyfile"},
		WorkingDir:   "/data",
		ExposedPorts: map[string]struct{}{"8009/tcp": {}},
		Volumes:      map[string]struct{}{"/config": {}, "/data": {}},
		StopSignal:   "SIGTERM",
		Healthcheck: &v1.HealthConfig{
			Test: []string{"CMD", imageProgram, "presence-health", "--config", "/etc/caddy-presence/Caddyfile", "--adapter", "caddyfile"},
		},
		Labels: map[string]string{
			"org.opencontainers.image.title":         "caddy-presence",
			"org.opencontainers.image.description":   "Limits and caches presence in front of a Matrix homeserver",
			"org.opencontainers.image.version":       r.Version,
			"org.opencontainers.image.revision":      r.Commit,
			"org.opencontainers.image.created":       r.Time.Format(time.RFC3339),
			"org.opencontainers.image.licenses":      "Apache-2.0",
			"org.opencontainers.image.source":        "https://github.com/caddy-matrix/caddy-matrix-presence",
			"org.opencontainers.image.documentation": "https://github.com/caddy-matrix/caddy-matrix-presence/blob/main/docs/deploy/README.md",
		},
	}
	return config
}

// entry is a file of a layer, or a folder if its name ends in a slash.
type entry struct {
	Name     string
	Mode     int64
	UID      int
	Contents []byte
}

// baseFiles are those that the program needs around itself.
func (r release) baseFiles(string) ([]entry, error) {
	return []entry{
		{Name: "config/", Mode: 0o775, UID: imageUser},
		{Name: "data/", Mode: 0o775, UID: imageUser},
		{Name: "etc/", Mode: 0o755},
		{Name: "etc/group", Mode: 0o644, Contents: []byte("root:x:0:\n")},
		// Runtimes put their own over it. Without either, "localhost" would be a question to DNS.
		{Name: "etc/hosts", Mode: 0o644, Contents: []byte("127.0.0.1 localhost\n::1 localhost\n")},
		{Name: "etc/passwd", Mode: 0o644, Contents: fmt.Appendf(nil,
			"root:x:0:0:root:/:/sbin/nologin\ncaddy-presence:x:%d:0:caddy-presence:/data:/sbin/nologin\n", imageUser)},
		{Name: "etc/ssl/", Mode: 0o755},
		{Name: "etc/ssl/certs/", Mode: 0o755},
		{Name: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Contents: authorities()},
	}, nil
}

// authorities are Mozilla's certificate authorities, as the version of x509roots in go.mod
// has them. Those are left out that may be believed with a condition only: a PEM file can't
// say it.
func authorities() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // to memory: never fails
		}
	}
	return text.Bytes()
}

// programFiles are the program, its configuration and its licences.
func (r release) programFiles(arch string) ([]entry, error) {
	program, err := os.ReadFile(r.binary(arch))
	if err != nil {
		return nil, err
	}
	caddyfile, err := os.ReadFile(filepath.Join(r.Root, "contrib/image/Caddyfile"))
	if err != nil {
		return nil, err
	}
	licence, err := os.ReadFile(filepath.Join(r.Root, "LICENSE"))
	if err != nil {
		return nil, err
	}
	bill, err := os.ReadFile(r.bill(arch))
	if err != nil {
		return nil, err
	}
	others, err := licences(r.binary(arch))
	if err != nil {
		return nil, err
	}
	return []entry{
		{Name: "etc/caddy-presence/", Mode: 0o755},
		{Name: "etc/caddy-presence/Caddyfile", Mode: 0o644, Contents: caddyfile},
		{Name: "usr/", Mode: 0o755},
		{Name: "usr/bin/", Mode: 0o755},
		{Name: strings.TrimPrefix(imageProgram, "/"), Mode: 0o755, Contents: program},
		{Name: "usr/share/", Mode: 0o755},
		{Name: "usr/share/doc/", Mode: 0o755},
		{Name: "usr/share/doc/caddy-presence/", Mode: 0o755},
		{Name: "usr/share/doc/caddy-presence/caddy-presence.cdx.json", Mode: 0o644, Contents: bill},
		{Name: "usr/share/doc/caddy-presence/copyright", Mode: 0o644, Contents: licence},
		{Name: "usr/share/doc/caddy-presence/third-party-licences.gz", Mode: 0o644, Contents: compressed(others)},
	}, nil
}

// tar writes a layer. All its files have the time of the commit.
func (r release) tar(entries []entry) ([]byte, error) {
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	for _, e := range entries {
		kind := byte(tar.TypeReg)
		if strings.HasSuffix(e.Name, "/") {
			kind = tar.TypeDir
		}
		err := writer.WriteHeader(&tar.Header{
			Typeflag: kind, Name: e.Name, Mode: e.Mode, Uid: e.UID, Size: int64(len(e.Contents)), ModTime: r.Time,
		})
		if err != nil {
			return nil, err
		}
		if _, err := writer.Write(e.Contents); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return out.Bytes(), err
}

// writeLayout writes an OCI layout as a tar, its files in alphabetical order.
func (r release) writeLayout(index v1.ImageIndex, file string) error {
	dir, err := os.MkdirTemp("", "caddy-presence-oci-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	// The index of all architectures is the one thing in the layout, under the version's
	// name: otherwise tools can't tell which of several to take.
	named := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add:        index,
		Descriptor: v1.Descriptor{Annotations: map[string]string{"org.opencontainers.image.ref.name": r.Version}},
	})
	if _, err := layout.Write(dir, named); err != nil {
		return err
	}
	var entries []entry
	err = filepath.WalkDir(dir, func(path string, file os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if file.IsDir() {
			entries = append(entries, entry{Name: filepath.ToSlash(name) + "/", Mode: 0o755})
			return nil
		}
		content, err := os.ReadFile(path) //nolint:gosec // G304, G122: a file of our temporary folder
		entries = append(entries, entry{Name: filepath.ToSlash(name), Mode: 0o644, Contents: content})
		return err
	})
	if err != nil {
		return err
	}
	content, err := r.tar(entries)
	if err != nil {
		return err
	}
	return write(file, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}
