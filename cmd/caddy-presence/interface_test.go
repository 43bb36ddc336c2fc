package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// golden is everything that an admin may have written down somewhere: in a Caddyfile, in
// JSON, in a script or in an alert. What is missing in it after a change breaks somebody.
const golden = "../../docs/interface.txt"

var update = flag.Bool("update", false, "write docs/interface.txt anew")

// The interface changes only where somebody has looked: run this test with -update, and
// tell of the change in CHANGELOG.md.
func TestTheInterfaceIsTheGoldenOne(t *testing.T) {
	got := strings.Join(slices.Concat(
		section("modules", ours()),
		section("options in a Caddyfile", caddyfileOptions(t, "matrix_presence", nil)),
		section("options of presence_status in a Caddyfile", caddyfileOptions(t, "presence_status", nil)),
		section("options in JSON", jsonOptions(t)),
		section("commands and flags", commands()),
		section("admin endpoint", adminPaths(t)),
		section("metrics, with the values of their labels", metrics(t)),
		section("answers in JSON, of the admin endpoint and of commands", jsonAnswers(t)),
	), "\n")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := readFile(t, golden)
	for _, line := range missing(want, got) {
		t.Errorf("no longer there: %s", line)
	}
	for _, line := range missing(got, want) {
		t.Errorf("not in %s: %s (run this test with -update)", golden, line)
	}
}

// section is a heading and its lines, sorted.
func section(heading string, lines []string) []string {
	sort.Strings(lines)
	return append(append([]string{"# " + heading, ""}, lines...), "")
}

// missing returns the lines of one text that aren't in another.
func missing(of, in string) []string {
	var lines []string
	all := strings.Split(in, "\n")
	for line := range strings.SplitSeq(of, "\n") {
		if !slices.Contains(all, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// ours are the IDs of this repository's modules.
func ours() []string {
	var ids []string
	for _, id := range caddy.Modules() {
		info, err := caddy.GetModule(id)
		if err != nil {
			continue
		}
		kind := reflect.TypeOf(info.New())
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		if strings.Contains(kind.PkgPath(), "caddy-matrix-presence/") {
			ids = append(ids, id)
		}
	}
	return ids
}

// caddyfileOptions asks the parser itself: what it expects in a block, it says when it gets
// something else. Path is the options whose blocks lead there.
func caddyfileOptions(t *testing.T, directive string, path []string) []string {
	t.Helper()
	open, end := "", ""
	for i, name := range path {
		if name == "class" {
			name = "class x" // it has a name
		}
		if name == "feed" || name == "cluster" && i == 0 {
			name += " redis" // it is a module
		}
		open, end = open+name+" {\n", end+"}\n"
	}
	text := "http://localhost {\n" + directive + " {\n" + open + "?\n" + end + "}\n}"
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	if err == nil {
		t.Fatalf("an unknown option was accepted in %q", path)
	}
	expected := regexp.MustCompile(`'\?', expected one of: ([a-z_, ]+), at`).FindStringSubmatch(err.Error())
	if expected == nil {
		return nil // no block
	}
	var options []string
	for name := range strings.SplitSeq(expected[1], ", ") {
		inside := append(slices.Clone(path), name)
		options = append(options, strings.Join(inside, " "))
		options = append(options, caddyfileOptions(t, directive, inside)...)
	}
	return options
}

// jsonOptions are the members of the modules' JSON, with their types.
func jsonOptions(t *testing.T) []string {
	t.Helper()
	var options []string
	for _, id := range ours() {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(id, "admin.") {
			options = append(options, members(id, reflect.TypeOf(info.New()))...)
		}
	}
	return options
}

// members are those of a type, each with its path.
func members(path string, of reflect.Type) []string {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		if of.Kind() == reflect.Slice {
			path += "[]"
		}
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct {
		return []string{path + " " + of.Kind().String()}
	}
	var all []string
	for field := range of.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous && name == "":
			all = append(all, members(path, field.Type)...)
		case name != "" && name != "-":
			all = append(all, members(path+"."+name, field.Type)...)
		}
	}
	return all
}

// flagAndType finds both in cobra's usage text.
var flagAndType = regexp.MustCompile(`(?m)^ +(?:-., )?(--[a-z-]+(?: [a-zA-Z]+)?)`)

// commands are this repository's commands, with their flags.
func commands() []string {
	var lines []string
	for name, command := range caddycmd.Commands() {
		if !strings.HasPrefix(name, "presence-") {
			continue
		}
		lines = append(lines, name)
		cmd := &cobra.Command{}
		if command.CobraFunc != nil {
			command.CobraFunc(cmd)
		}
		for _, flag := range flagAndType.FindAllStringSubmatch(cmd.Flags().FlagUsages(), -1) {
			lines = append(lines, strings.TrimSpace(name+" "+flag[1]))
		}
	}
	return lines
}

// adminPaths are this repository's paths at the admin endpoint.
func adminPaths(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, id := range ours() {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		if router, ok := info.New().(caddy.AdminRouter); ok {
			for _, route := range router.Routes() {
				paths = append(paths, route.Pattern)
			}
		}
	}
	return paths
}

// metrics are those that an instance shows, with all values of their labels but for the
// name of the memory. All of them are there from the start, if what they are about is configured,
// but for the age of a snapshot, which has to be written first: TestAllMetricsAreCollected (caddymodule) waits for it.
func metrics(t *testing.T) []string {
	t.Helper()
	client := startInstance(t, `brown_out on
			feed redis {
				address 127.0.0.1:1
				server_name example.com
			}
			cluster redis {
				address 127.0.0.1:1
				secret 0123456789abcdef0123456789abcdef
			}`, "127.0.0.1:1")
	defer stopInstance(client)
	resp, err := client.Get("http://localhost/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	lines := series(string(text))
	for _, metric := range gateway.Metrics {
		if line := "caddy_matrix_presence_" + metric.Name + " gauge"; metric.IsGauge && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// startInstance starts an instance with some options and a homeserver, and returns a client for it.
func startInstance(t *testing.T, options, homeserver string) *http.Client {
	t.Helper()
	// Not t.TempDir: a socket's path may have 108 bytes.
	dir, err := os.MkdirTemp("", "presence")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "instance.sock")
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `{
		admin off
		persist_config off
		storage file_system %s
		log default {
			output discard
		}
	}
	http://localhost {
		bind unix/%s
		metrics /metrics
		matrix_presence {
			%s
			cache {
				name interface
			}
		}
		reverse_proxy %s
	}`, dir, socket, options, homeserver), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

func stopInstance(client *http.Client) {
	client.CloseIdleConnections()
	_ = caddy.Stop() // says nothing that a test would want to know
}

// series are the metrics in an exposition with their types, and the values of their labels.
func series(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, labels, _ := strings.Cut(line, "{")
		found := []string{strings.TrimPrefix(line, "# TYPE ")}
		if !strings.HasPrefix(line, "# TYPE ") {
			found = nil // a sample, or help
			for _, label := range labelAndValue.FindAllStringSubmatch(labels, -1) {
				if label[1] != "cache" && label[1] != "le" {
					found = append(found, name+" "+label[0])
				}
			}
		}
		for _, line := range found {
			if strings.HasPrefix(line, "caddy_matrix_presence_") && !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// labelAndValue finds both in a sample. No value that is public has a quote in it.
var labelAndValue = regexp.MustCompile(`([a-z_]+)="[^"]*"`)
