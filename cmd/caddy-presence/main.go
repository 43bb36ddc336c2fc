// Command caddy-presence is Caddy with its standard modules, matrix_presence, and the feed and the cluster by Redis.
//
// It takes all of Caddy's commands, and presence-proxy, which puts the module in
// front of a homeserver without a configuration file:
//
//	caddy-presence presence-proxy --from :8009 --to http://localhost:8008
package main

import (
	"runtime/debug"
	"strings"
	_ "time/tzdata"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-matrix/caddy-matrix-presence/caddymodule"
	_ "github.com/caddy-matrix/caddy-matrix-presence/redis"
)

// version and commit are what `make build` says: -ldflags '-X main.version=… -X main.commit=…'.
var version, commit string

func main() {
	// Man pages, completions and help name the program by it.
	caddy.CustomBinaryName = "caddy-presence"
	caddy.CustomLongDescription = `Caddy, a web server, with matrix_presence: it stands in front of a Matrix
homeserver, limits presence for each user, answers presence reads from memory
where that is safe, and forwards everything else untouched.

For a first try, without a configuration file:

	$ caddy-presence presence-proxy --from :8009 --to http://localhost:8008

All commands of Caddy work as in Caddy.`
	info, _ := debug.ReadBuildInfo()
	caddy.CustomVersion = describe(version, commit, info)
	caddycmd.Main()
}

// describe is what --version says before Caddy's own version. What `make build` doesn't
// say, Go may know: "go install …@v0.1.0" knows the version, and a build in a checkout the
// commit.
func describe(version, commit string, info *debug.BuildInfo) string {
	if info != nil && version == "" && info.Main.Version != "(devel)" {
		version = strings.TrimPrefix(info.Main.Version, "v")
	}
	if version == "" {
		version = "of an unknown version"
	}
	for _, setting := range settings(info) {
		if commit == "" && setting.Key == "vcs.revision" {
			commit = setting.Value
		}
	}
	if commit != "" {
		commit = " (commit " + commit + ")"
	}
	return "caddy-presence " + version + commit + ", Caddy"
}

// settings are those of the build, if it is known.
func settings(info *debug.BuildInfo) []debug.BuildSetting {
	if info == nil {
		return nil
	}
	return info.Settings
}
