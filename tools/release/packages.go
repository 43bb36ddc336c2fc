package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/apk" // registers the format
	_ "github.com/goreleaser/nfpm/v2/deb" // registers the format
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm" // registers the format
)

// formats are the packages that are made.
var formats = []string{"deb", "rpm", "apk"}

// scripts are those that run when a package comes or goes.
var scripts = []string{"postinstall.sh", "preremove.sh", "postremove.sh"}

// packages makes a package of each format for each architecture, as
// contrib/package/nfpm.yaml says.
func (r release) packages() error {
	for _, arch := range architectures {
		stage, err := os.MkdirTemp("", "caddy-presence-stage-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(stage) //nolint:errcheck // a temporary folder
		if err := r.stage(stage, arch); err != nil {
			return err
		}
		for _, format := range formats {
			if err := r.pack(stage, arch, format); err != nil {
				return fmt.Errorf("the %s for %s: %w", format, arch, err)
			}
		}
	}
	return nil
}

// pack writes one package.
func (r release) pack(stage, arch, format string) error {
	variables := map[string]string{"ARCH": arch, "VERSION": r.Version, "STAGE": stage}
	config, err := nfpm.ParseFileWithEnvMapping(filepath.Join(r.Root, "contrib/package/nfpm.yaml"),
		func(name string) string { return variables[name] })
	if err != nil {
		return err
	}
	info, err := config.Get(format)
	if err != nil {
		return err
	}
	info.MTime = r.Time
	for _, script := range []*string{&info.Scripts.PostInstall, &info.Scripts.PreRemove, &info.Scripts.PostRemove} {
		*script = filepath.Join(stage, "scripts", filepath.Base(*script))
	}
	for _, content := range info.Contents {
		if content.Source != "" && !filepath.IsAbs(content.Source) {
			content.Source = filepath.Join(r.Root, content.Source)
		}
		if content.FileInfo == nil {
			content.FileInfo = &files.ContentFileInfo{}
		}
		content.FileInfo.MTime = r.Time
	}
	if err := nfpm.Validate(nfpm.WithDefaults(info)); err != nil {
		return err
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	file := r.artefact(arch + "." + format)
	say("%s", file)
	return write(file, func(w io.Writer) error { return packager.Package(info, w) })
}

// write writes a file, or leaves none.
func write(name string, content func(io.Writer) error) error {
	file, err := os.Create(name) //nolint:gosec // G304: an artefact
	if err != nil {
		return err
	}
	if err := content(file); err != nil {
		_ = file.Close()
		_ = os.Remove(name)
		return err
	}
	return file.Close()
}
