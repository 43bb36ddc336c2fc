package sidecar

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
)

// Command runs the program with arguments until it ends, with Caddy's folders in dir. It returns what it says, its
// errors and its exit code; err tells that it couldn't be run.
func Command(ctx context.Context, dir string, args ...string) (stdout, stderr string, code int, err error) {
	binary, err := Build(os.Stderr)
	if err != nil {
		return "", "", 0, err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return "", "", 0, err
	}
	return out.String(), problem.String(), cmd.ProcessState.ExitCode(), nil
}
