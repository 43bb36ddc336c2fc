package load

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
)

//go:embed wrk.lua
var script []byte

// wrk loads a server with wrk: one thread, because the other core is the server's.
func wrk(ctx context.Context, program string, o Options) (Result, error) {
	dir, err := os.MkdirTemp("", "presence-wrk-")
	if err != nil {
		return Result{}, fmt.Errorf("making a folder for wrk: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "requests.lua")
	if err := os.WriteFile(path, script, 0o600); err != nil {
		return Result{}, fmt.Errorf("writing wrk's script: %w", err)
	}
	cmd := exec.CommandContext(ctx, program, "-t1", fmt.Sprintf("-c%d", o.Connections),
		fmt.Sprintf("-d%d", int(o.Duration.Seconds())), "-s", path, "http://"+o.Address,
		"--", o.File, strconv.Itoa(o.Offset))
	out, err := checkout.Output(cmd)
	if err != nil {
		return Result{}, fmt.Errorf("running wrk: %w", err)
	}
	return parseWrk(out)
}

// parseWrk reads the line that our script makes wrk print at the end.
func parseWrk(out string) (Result, error) {
	_, line, found := strings.Cut(out, "result ")
	line, _, _ = strings.Cut(line, "\n")
	if !found {
		return Result{}, fmt.Errorf("reading wrk's result: there is none in %q", out)
	}
	values := make(map[string]float64)
	for field := range strings.FieldsSeq(line) {
		name, text, _ := strings.Cut(field, "=")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return Result{}, fmt.Errorf("reading wrk's result: %s: %w", field, err)
		}
		values[name] = value
	}
	for _, name := range []string{"requests", "us", "bytes", "status", "failed", "p50", "p99", "p999"} {
		if _, ok := values[name]; !ok {
			return Result{}, fmt.Errorf("reading wrk's result: no %s in %q", name, line)
		}
	}
	return Result{
		Requests: int(values["requests"]), Seconds: values["us"] / 1e6, Bytes: int64(values["bytes"]),
		Refused: int(values["status"]), Failed: int(values["failed"]),
		P50: values["p50"], P99: values["p99"], P999: values["p999"],
	}, nil
}
