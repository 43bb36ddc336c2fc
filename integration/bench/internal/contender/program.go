package contender

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// Program is a server program.
type Program string

// The programs that are compared.
const (
	// CaddyPresence is the binary that users run. Without our directive in its
	// configuration it is bare Caddy.
	CaddyPresence Program = "caddy-presence"
	// CaddyPeers is Caddy with the modules of others.
	CaddyPeers Program = "caddy-peers"
	Nginx      Program = "nginx"
	Varnish    Program = "varnishd"
)

// ErrMissing says that this machine doesn't have a program.
var ErrMissing = errors.New("not here")

// Find returns the path of a program, and builds it first if it is one of ours.
// Where it takes long, it reports to out.
func (p Program) Find(out io.Writer) (string, error) {
	switch p {
	case CaddyPresence:
		return sidecar.Build(out)
	case CaddyPeers:
		return buildPeers(out)
	case Varnish:
		// Varnish compiles its configuration.
		if _, err := find("cc", "gcc"); err != nil {
			return "", err
		}
		return find("varnishd", "varnish")
	default:
		return find(string(p), string(p))
	}
}

// find looks for a program also where Debian keeps servers: that folder is not in
// the PATH of an ordinary user.
func find(name, debian string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path := filepath.Join("/usr/sbin", name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is %w (apt-get install %s)", name, ErrMissing, debian)
}

// command is how a program is run in a folder that holds its configuration.
func (p Program) command(path, dir, listen string) *exec.Cmd {
	var cmd *exec.Cmd
	switch p {
	case Nginx:
		cmd = exec.Command(path, "-p", dir, "-c", filepath.Join(dir, configName), "-e", "stderr", "-g", "daemon off;")
	case Varnish:
		cmd = exec.Command(path, "-F", "-j", "none", "-n", filepath.Join(dir, "varnish"), "-a", listen,
			"-f", filepath.Join(dir, configName), "-s", "malloc,1g", "-T", "none")
	default:
		cmd = exec.Command(path, "run", "--config", configName, "--adapter", "caddyfile")
	}
	cmd.Dir = dir
	// Caddy keeps its last configuration and its certificates in the user's folders.
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	return cmd
}

// configName is the file that holds a contender's configuration.
const configName = "config"

var peers struct {
	once   sync.Once
	binary string
	err    error
}

// buildPeers builds ./peers, with the flags of our own binary, and keeps it beside
// that one.
func buildPeers(out io.Writer) (string, error) {
	peers.once.Do(func() {
		peers.err = progress.While(out, "building Caddy with the modules of others; the first time this takes a minute or two", func() error {
			root, err := checkout.Root()
			if err != nil {
				return err
			}
			cache, err := checkout.CacheDir()
			if err != nil {
				return err
			}
			sum := sha256.Sum256([]byte(root))
			peers.binary = filepath.Join(cache, "caddy-peers-"+hex.EncodeToString(sum[:6]))
			cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "nobadger,nomysql,nopgx,peers",
				"-o", peers.binary, "./peers")
			cmd.Dir = filepath.Join(root, "integration", "bench")
			cmd.Env = append(checkout.GoEnv(), "CGO_ENABLED=0", "GOTMPDIR="+cache)
			if _, err := checkout.Output(cmd); err != nil {
				first, _, _ := strings.Cut(err.Error(), "\n")
				return fmt.Errorf("caddy with the modules of others is %w: building it: %s", ErrMissing, first)
			}
			return nil
		})
	})
	return peers.binary, peers.err
}
