package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// stage lays out in a folder what packages hold besides the files of contrib/package: the
// program, its man pages and completions, documentation and licences. The packages' scripts
// are there too, since an apk takes over the times of their files. The program of this
// machine's architecture writes man pages and completions, for all architectures the same.
func (r release) stage(dir, arch string) error {
	program := filepath.Join(dir, "caddy-presence")
	if err := copyFile(r.binary(arch), program, 0o755); err != nil {
		return err
	}
	for _, script := range scripts {
		if err := copyFile(filepath.Join(r.Root, "contrib/package/scripts", script), filepath.Join(dir, "scripts", script), 0o755); err != nil {
			return err
		}
	}
	if err := r.stageManuals(dir); err != nil {
		return err
	}
	if err := r.stageDocs(filepath.Join(dir, "doc"), arch); err != nil {
		return err
	}
	return settle(dir, r.Time)
}

// stageManuals has the program write its man pages and completions.
func (r release) stageManuals(dir string) error {
	program, err := filepath.Abs(r.binary(runtime.GOARCH))
	if err != nil {
		return err
	}
	man, completion := filepath.Join(dir, "man"), filepath.Join(dir, "completion")
	if err := os.MkdirAll(completion, 0o755); err != nil { //nolint:gosec // G301: the folder goes into packages as it is
		return err
	}
	if _, err := r.ask(program, "manpage", "--directory", man); err != nil {
		return fmt.Errorf("writing man pages: %w", err)
	}
	if err := compressAll(man); err != nil {
		return err
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := r.ask(program, "completion", shell)
		if err != nil {
			return fmt.Errorf("writing the completion of %s: %w", shell, err)
		}
		if err := os.WriteFile(filepath.Join(completion, shell), script, 0o644); err != nil { //nolint:gosec // G306: everybody reads it
			return err
		}
	}
	return nil
}

// ask runs the program. Its man pages have the date of SOURCE_DATE_EPOCH.
func (r release) ask(program string, args ...string) ([]byte, error) {
	cmd := exec.Command(program, args...) //nolint:gosec // G204: the program that is released
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.Time.Unix()))
	return output(cmd)
}

// output runs a command and returns what it says; what it complains of is part of the error.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s%s", err, bytes.TrimSpace(stderr.Bytes()), bytes.TrimSpace(out))
	}
	return out, nil
}

// linked are the folders that pages link to for admins: pictures, alerts, the dashboard.
var linked = []string{"docs", "contrib/prometheus", "contrib/grafana", "contrib/image"}

// stagePages copies the pages, and what they link to, with their folders, so that the links between them hold.
func (r release) stagePages(doc string) error {
	pages, err := filepath.Glob(filepath.Join(r.Root, "*.md"))
	if err != nil {
		return err
	}
	for _, page := range append(pages, filepath.Join(r.Root, "Caddyfile.example"), filepath.Join(r.Root, "xcaddy.json")) {
		if err := copyFile(page, filepath.Join(doc, filepath.Base(page)), 0o644); err != nil {
			return err
		}
	}
	for _, folder := range linked {
		err := filepath.WalkDir(filepath.Join(r.Root, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name, err := filepath.Rel(r.Root, path)
			if err != nil {
				return err
			}
			return copyFile(path, filepath.Join(doc, name), 0o644)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stageDocs lays out what stands in a package's folder of documentation.
func (r release) stageDocs(doc, arch string) error {
	if err := r.stagePages(doc); err != nil {
		return fmt.Errorf("copying the documentation: %w", err)
	}
	if err := copyFile(filepath.Join(r.Root, "LICENSE"), filepath.Join(doc, "copyright"), 0o644); err != nil {
		return err
	}
	if err := copyFile(r.bill(arch), filepath.Join(doc, "caddy-presence.cdx.json"), 0o644); err != nil {
		return err
	}
	text, err := licences(r.binary(arch))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(doc, "third-party-licences.gz"), compressed(text), 0o644) //nolint:gosec // G306: everybody reads it
}

// copyFile copies a file, and makes the folder that it goes to.
func copyFile(from, to string, mode fs.FileMode) error {
	content, err := os.ReadFile(from) //nolint:gosec // G304: a file of the checkout
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { //nolint:gosec // G301: the folder goes into packages as it is
		return err
	}
	if err := os.WriteFile(to, content, mode); err != nil { //nolint:gosec // G703: into the stage, from the checkout
		return err
	}
	return os.Chmod(to, mode) // whatever the umask is
}

// compressAll replaces each file of a folder by its gzipped form.
func compressAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := filepath.Join(dir, entry.Name())
		content, err := os.ReadFile(name) //nolint:gosec // G304: the program has just written it
		if err != nil {
			return err
		}
		if err := os.WriteFile(name+".gz", compressed(content), 0o644); err != nil { //nolint:gosec // G306: everybody reads it
			return err
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// compressed gzips without a name and a time.
func compressed(content []byte) []byte {
	var out bytes.Buffer
	writer, _ := gzip.NewWriterLevel(&out, gzip.BestCompression) // fails for an unknown level only
	_, _ = writer.Write(content)                                 // to memory: never fails
	_ = writer.Close()
	return out.Bytes()
}

// settle gives all files of a folder the same time, and its folders the same mode whatever
// the umask is.
func settle(dir string, at time.Time) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // G302: the folder goes into packages as it is
				return err
			}
		}
		return os.Chtimes(path, at, at) //nolint:gosec // G122: nobody else writes to our temporary folder
	})
}
