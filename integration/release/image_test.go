package release_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// inspected is the part of what skopeo says of an image that is looked at here.
type inspected struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Created      string
	Config       struct {
		User         string
		Env          []string
		Entrypoint   []string
		Cmd          []string
		ExposedPorts map[string]any
		Volumes      map[string]any
		Labels       map[string]string
		Healthcheck  struct{ Test []string }
	} `json:"config"`
}

// inspect has skopeo read an image's configuration, as it is: else it leaves out the health check, which is Docker's
// and not in the specification of OCI images.
func inspect(t *testing.T, arch, from string) inspected {
	t.Helper()
	out, err := exec.Command("skopeo", "inspect", "--config", "--raw", "--override-arch", arch, from).Output()
	if err != nil {
		t.Fatalf("skopeo inspect %s: %v", from, err)
	}
	var image inspected
	if err := json.Unmarshal(out, &image); err != nil {
		t.Fatal(err)
	}
	return image
}

func TestTheImageIsWhatItSays(t *testing.T) {
	oci := artefact(t, "*_oci.tar")
	for _, arch := range []string{"amd64", "arm64"} {
		for _, from := range []string{
			"oci-archive:" + oci,
			"docker-archive:" + artefact(t, "*_docker_"+arch+".tar"),
		} {
			image := inspect(t, arch, from)
			if image.OS != "linux" || image.Architecture != arch || image.Config.User != "1001:0" {
				t.Errorf("%s is for %s/%s as %s", from, image.OS, image.Architecture, image.Config.User)
			}
			for _, volume := range []string{"/config", "/data"} {
				if _, ok := image.Config.Volumes[volume]; !ok {
					t.Errorf("%s has no volume %s", from, volume)
				}
			}
			if _, ok := image.Config.ExposedPorts["8009/tcp"]; !ok {
				t.Errorf("%s doesn't say its port", from)
			}
			for _, label := range []string{"title", "version", "revision", "created", "licenses", "source"} {
				if image.Config.Labels["org.opencontainers.image."+label] == "" {
					t.Errorf("%s has no label %s", from, label)
				}
			}
		}
	}
	// The whole of it can be copied, with each digest checked.
	run(t, "skopeo", "copy", "--multi-arch=all", "oci-archive:"+oci, "oci:"+filepath.Join(t.TempDir(), "copy"))
}

// unpack has umoci unpack this machine's image, as a runtime would, and returns its root.
func unpack(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "skopeo", "copy", "--override-arch", runtime.GOARCH, "oci-archive:"+artefact(t, "*_oci.tar"), "oci:"+dir+"/layout:it")
	run(t, "umoci", "unpack", "--image", dir+"/layout:it", dir+"/bundle")
	return filepath.Join(dir, "bundle/rootfs")
}

// The image runs as its user, on a root that nobody can write to, with a writable /data.
func TestTheImagesRootServesASynapse(t *testing.T) {
	artefact(t, "*_oci.tar")
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	root := unpack(t)
	image := inspect(t, runtime.GOARCH, "oci-archive:"+artefact(t, "*_oci.tar"))

	// Read-only but for /data, as by "docker run --read-only --volume …:/data".
	run(t, "mount", "--bind", root, root)
	t.Cleanup(func() { run(t, "umount", "--recursive", root) })
	run(t, "mount", "-t", "tmpfs", "-o", "uid=1001,gid=0,mode=0770", "tmpfs", filepath.Join(root, "data"))
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o555); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "proc", "proc", filepath.Join(root, "proc"))
	run(t, "mount", "-o", "remount,bind,ro", root)
	listen := freeAddress(t)
	mountCaddyfile(t, root, listen)
	if err := os.WriteFile(filepath.Join(root, "etc/try"), nil, 0o600); err == nil {
		t.Fatal("the root isn't read-only")
	}

	words := append([]string{"--userspec=" + image.Config.User, root}, image.Config.Entrypoint...)
	words = append(words, image.Config.Cmd...)
	cmd := exec.Command("chroot", words...)
	cmd.Env = append(image.Config.Env, "HOMESERVER="+hs.URL)
	log := filepath.Join(t.TempDir(), "log")
	p, err := process.Start("the image", cmd, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	url := "http://" + listen
	if err := p.Ready(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	shows(t, homeserver.Client{URL: url}, hs, "carol", "online", "dave")
	test := image.Config.Healthcheck.Test
	if len(test) < 2 || test[0] != "CMD" {
		t.Fatalf("its health check is %q", test)
	}
	if out := run(t, append([]string{"chroot", "--userspec=" + image.Config.User, root}, test[1:]...)...); !strings.Contains(out, "healthy: ") {
		t.Errorf("its health check says %q", out)
	}
	if said := process.Tail(log, 200); strings.Contains(said, `"level":"error"`) {
		t.Errorf("its log has errors:\n%s", said)
	}
}

// mountCaddyfile mounts another Caddyfile, as admins do for options: here, for a free port.
func mountCaddyfile(t *testing.T, root, listen string) {
	t.Helper()
	inside := filepath.Join(root, "etc/caddy-presence/Caddyfile")
	text, err := os.ReadFile(inside)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(mine, []byte(replaceOnce(t, string(text), ":8009", ":"+port)), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "--bind", mine, inside)
}

// replaceOnce replaces what must be there.
func replaceOnce(t *testing.T, text, from, to string) string {
	t.Helper()
	if !strings.Contains(text, from) {
		t.Fatalf("there is no %q in\n%s", from, text)
	}
	return strings.Replace(text, from, to, 1)
}
