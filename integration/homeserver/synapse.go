package homeserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
)

// StartSynapse starts a Synapse, and installs it first if that was never done.
// Where it can't be installed the error is ErrUnavailable.
func StartSynapse(ctx context.Context, opts Options) (*Homeserver, error) {
	python, err := InstallSynapse(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	var programs services
	if opts.Redis {
		if programs, err = installServices(ctx, opts.Progress); err != nil {
			return nil, err
		}
	}
	return process.Retry(func() (*Homeserver, error) {
		addrs, err := process.FreeAddresses(2)
		if err != nil {
			return nil, err
		}
		_, port, err := net.SplitHostPort(addrs[0])
		if err != nil {
			return nil, err
		}
		dir, err := newDir("synapse")
		if err != nil {
			return nil, err
		}
		h := &Homeserver{Name: "synapse", URL: "http://" + addrs[0], ServerName: ServerName, dir: dir}
		if opts.Redis {
			h.Redis = addrs[1]
			if _, opts.redisPort, err = net.SplitHostPort(h.Redis); err != nil {
				return nil, err
			}
			if h.redis, err = startRedis(ctx, programs, dir, h.Redis); err != nil {
				os.RemoveAll(dir)
				return nil, err
			}
		}
		return h.launch(ctx, func() (*process.Process, error) {
			if h.process == nil { // the first time: later it has a key
				if err := writeSynapseFiles(dir, opts, port); err != nil {
					return nil, err
				}
			}
			cmd := exec.Command(python, "-m", "synapse.app.homeserver", "-c", "homeserver.yaml")
			cmd.Dir = dir
			return process.Start("synapse", cmd, filepath.Join(dir, "homeserver.log"))
		})
	})
}

// writeSynapseFiles makes the signing key too: Synapse would do that by
// --generate-keys, a start of Python that takes as long as the server's own.
func writeSynapseFiles(dir string, opts Options, port string) error {
	seed := make([]byte, 32)
	rand.Read(seed)
	key := "ed25519 a_test " + base64.RawStdEncoding.EncodeToString(seed) + "\n"
	if err := os.WriteFile(filepath.Join(dir, "signing.key"), []byte(key), 0o600); err != nil {
		return fmt.Errorf("writing synapse's key: %w", err)
	}
	if err := render(dir, "appservice.yaml", appserviceConfig, opts, port); err != nil {
		return err
	}
	return render(dir, "homeserver.yaml", synapseConfig, opts, port)
}

// synapseConfig lifts every limit that a test could meet by being fast, and
// leaves Synapse's own presence limit in place where a test asks for it. All
// paths are relative to the working directory.
const synapseConfig = `server_name: {{.ServerName}}
pid_file: homeserver.pid
signing_key_path: signing.key
media_store_path: media
{{- with .Busy}}
database:
  name: psycopg2
  args: {user: synapse, database: postgres, host: {{.Database}}, cp_min: 1, cp_max: 5}
redis: {enabled: true, host: 127.0.0.1, port: {{.Redis}}, password: {{.RedisPassword}}}
worker_replication_secret: loopback-only
instance_map:
  main: {host: 127.0.0.1, port: {{.Main}}}
  {{.PresenceWorker}}: {host: 127.0.0.1, port: {{.Presence}}}
stream_writers: {presence: {{.PresenceWorker}}}
{{- else}}
database:
  name: sqlite3
  args: {database: homeserver.db}
{{- with .RedisPort}}
redis: {enabled: true, host: 127.0.0.1, port: {{.}}, password: {{$.RedisPassword}}}
{{- end}}
{{- end}}
listeners:
{{- with .Busy}}
  - {port: {{.Main}}, bind_addresses: [127.0.0.1], type: http, resources: [{names: [replication]}]}
{{- end}}
  - port: {{.Port}}
    bind_addresses: [127.0.0.1]
    type: http
    tls: false
    x_forwarded: true
    resources:
      - names: [client{{if .Federation}}, federation{{end}}]
trusted_key_servers: []
suppress_key_server_warning: true
report_stats: false
registration_shared_secret: {{.SharedSecret}}
macaroon_secret_key: loopback-only
form_secret: loopback-only
bcrypt_rounds: 4
presence:
  enabled: {{not .PresenceOff}}
app_service_config_files: [appservice.yaml]
rc_message: &lifted {per_second: 10000, burst_count: 10000}
rc_registration: *lifted
rc_login: {address: *lifted, account: *lifted, failed_attempts: *lifted}
rc_joins: {local: *lifted, remote: *lifted}
rc_joins_per_room: *lifted
rc_invites: {per_room: *lifted, per_user: *lifted, per_issuer: *lifted}
rc_room_creation: *lifted
rc_media_create: *lifted
{{- if not .KeepPresenceLimit}}
rc_presence: {per_user: *lifted}
{{- end}}
`
