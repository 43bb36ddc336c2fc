package homeserver

import (
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

// ServerName is that of all of them. It ends in a domain reserved for tests (RFC 2606).
const ServerName = "hs.test"

// settings is what the templates of the configuration files see.
type settings struct {
	Options
	Port string

	ServerName, SharedSecret, ASToken, HSToken, RedisPassword string
}

// render writes one configuration file into a homeserver's folder.
func render(dir, name, text string, opts Options, port string) error {
	tmpl, err := template.New(name).Parse(text)
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer out.Close()
	err = tmpl.Execute(out, settings{
		Options: opts, Port: port,
		ServerName: ServerName, SharedSecret: SharedSecret, ASToken: ASToken, HSToken: hsToken, RedisPassword: RedisPassword,
	})
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return out.Close()
}

// appserviceConfig is read by both homeservers. It has no URL: the homeserver
// sends it nothing.
const appserviceConfig = `id: bridge
url: null
as_token: {{.ASToken}}
hs_token: {{.HSToken}}
sender_localpart: bridge
rate_limited: true
namespaces:
  users:
    - exclusive: true
      regex: "@(ghost|bridge)_.*"
  rooms: []
  aliases: []
`
