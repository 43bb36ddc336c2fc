package main

import (
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// database is where the known vulnerabilities are listed.
type database struct {
	url   string
	named bool // by GOVULNDB, and not ours to go without
}

// chosen is the database to use.
func chosen() database {
	named := os.Getenv("GOVULNDB")
	return database{cmp.Or(named, "https://vuln.go.dev"), named != ""}
}

// modified returns when the database was changed last. An error means that there
// is no database, or none that can be reached.
func (d database) modified(ctx context.Context) (time.Time, error) {
	text, err := d.read(ctx, "index/db.json")
	if err != nil {
		return time.Time{}, err
	}
	var index struct{ Modified time.Time }
	if err := json.Unmarshal(text, &index); err != nil {
		return time.Time{}, fmt.Errorf("reading its index: %w", err)
	}
	if index.Modified.IsZero() {
		return time.Time{}, errors.New("its index has no date")
	}
	return index.Modified, nil
}

// read reads a file as govulncheck does: plain from a folder, compressed over
// the network.
func (d database) read(ctx context.Context, name string) ([]byte, error) {
	base, err := url.Parse(d.url)
	if err != nil {
		return nil, err
	}
	if base.Scheme == "file" {
		return os.ReadFile(filepath.Join(filepath.FromSlash(base.Path), name)) // #nosec G304 -- GOVULNDB names the folder
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(d.url, "/")+"/"+name+".gz", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", req.URL, resp.Status)
	}
	plain, err := gzip.NewReader(resp.Body)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(plain, 1<<20))
}
