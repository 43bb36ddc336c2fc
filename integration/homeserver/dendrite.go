package homeserver

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
)

// BuildDendrite returns the path of a Dendrite binary in Go's build cache, and
// builds it first if it is not there.
//
// Its module is our only way to it: its packages are internal. It is a tool of a
// go.mod of its own (integration/dendrite), so that the versions it asks for are
// not mixed with Caddy's or with a client's.
func BuildDendrite(ctx context.Context, out io.Writer) (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	var binary string
	err = progress.While(out, "building Dendrite; the first time this takes a minute or two", func() error {
		cmd := exec.CommandContext(ctx, "go", "tool", "-n", "dendrite")
		cmd.Dir = filepath.Join(root, "integration", "dendrite")
		// Without cgo SQLite is the one in Go: no C compiler, and a third faster.
		cmd.Env = append(checkout.GoEnv(), "CGO_ENABLED=0")
		binary, err = checkout.Output(cmd)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("building dendrite: %w", err)
	}
	return binary, nil
}

// StartDendrite starts a Dendrite, and builds it first if that was never done.
func StartDendrite(ctx context.Context, opts Options) (*Homeserver, error) {
	binary, err := BuildDendrite(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	return process.Retry(func() (*Homeserver, error) {
		// The second address is for TLS, which is not served without a
		// certificate. Left out, it would stand for every interface.
		addrs, err := process.FreeAddresses(2)
		if err != nil {
			return nil, err
		}
		dir, err := newDir("dendrite")
		if err != nil {
			return nil, err
		}
		h := &Homeserver{Name: "dendrite", URL: "http://" + addrs[0], ServerName: ServerName, dir: dir}
		return h.launch(ctx, func() (*process.Process, error) {
			if err := writeDendriteFiles(dir, opts); err != nil {
				return nil, err
			}
			cmd := exec.Command(binary, "-config", "dendrite.yaml",
				"-http-bind-address", addrs[0], "-https-bind-address", addrs[1])
			cmd.Dir = dir
			return process.Start("dendrite", cmd, filepath.Join(dir, "homeserver.log"))
		})
	})
}

func writeDendriteFiles(dir string, opts Options) error {
	seed := make([]byte, 32)
	rand.Read(seed)
	key := pem.EncodeToMemory(&pem.Block{
		Type:    "MATRIX PRIVATE KEY",
		Headers: map[string]string{"Key-ID": "ed25519:test"},
		Bytes:   seed,
	})
	if err := os.WriteFile(filepath.Join(dir, "matrix_key.pem"), key, 0o600); err != nil {
		return fmt.Errorf("writing dendrite's key: %w", err)
	}
	if err := render(dir, "appservice.yaml", appserviceConfig, opts, ""); err != nil {
		return err
	}
	return render(dir, "dendrite.yaml", dendriteConfig, opts, "")
}

// dendriteConfig leaves out what Dendrite has a good default for. All paths are
// relative to its working directory. The client API's limiter is off because it
// counts whoami too, and twenty registered users.
const dendriteConfig = `version: 2
global:
  server_name: {{.ServerName}}
  private_key: matrix_key.pem
  disable_federation: {{not .Federation}}
  jetstream:
    in_memory: true
    storage_path: .
  presence:
    enable_inbound: {{not .PresenceOff}}
    enable_outbound: {{not .PresenceOff}}
app_service_api:
  config_files: [appservice.yaml]
client_api:
  registration_disabled: true
  registration_shared_secret: {{.SharedSecret}}
  rate_limiting:
    enabled: false
federation_api:
  database: {connection_string: "file:federationapi.db"}
  key_perspectives: []
key_server:
  database: {connection_string: "file:keyserver.db"}
media_api:
  database: {connection_string: "file:mediaapi.db"}
  base_path: media
mscs:
  database: {connection_string: "file:mscs.db"}
relay_api:
  database: {connection_string: "file:relayapi.db"}
room_server:
  database: {connection_string: "file:roomserver.db"}
sync_api:
  database: {connection_string: "file:syncapi.db"}
user_api:
  account_database: {connection_string: "file:userapi.db"}
  bcrypt_cost: 4
logging:
  - type: std
    level: warn
`
