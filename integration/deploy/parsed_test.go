package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"gopkg.in/yaml.v3"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	kyaml "sigs.k8s.io/yaml"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// compose reads files as "docker compose" does.
func compose(t *testing.T, files ...string) *types.Project {
	t.Helper()
	details := types.ConfigDetails{WorkingDir: t.TempDir()}
	for i, content := range files {
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: fmt.Sprintf("compose%d.yaml", i), Content: []byte(content)})
	}
	project, err := loader.LoadWithContext(t.Context(), details, func(o *loader.Options) { o.SetProjectName("matrix", true) })
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// checkContainer checks what each recipe with a container promises.
func checkContainer(t *testing.T, service types.ServiceConfig) {
	t.Helper()
	if service.StopGracePeriod == nil || time.Duration(*service.StopGracePeriod) < 20*time.Second {
		t.Errorf("it has %v to stop, want 20s", service.StopGracePeriod)
	}
	if !service.ReadOnly || !slices.Equal(service.CapDrop, []string{"ALL"}) || !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
		t.Error("the container may do more than it needs to")
	}
	if upstream := service.Environment["HOMESERVER"]; upstream == nil || !strings.HasPrefix(*upstream, "http://") {
		t.Errorf("the homeserver is %v", upstream)
	}
}

func TestTheComposeFile(t *testing.T) {
	project := compose(t, "services: {synapse: {image: synapse}}", blocks(t, "compose.md", "yaml")[0])
	service, err := project.GetService("caddy-presence")
	if err != nil {
		t.Fatal(err)
	}
	checkContainer(t, service)
}

// Compose reads "$$" as "$", which Traefik then gets.
func TestTheLabelsForThePlaybooksTraefik(t *testing.T) {
	project := compose(t, blocks(t, "matrix-docker-ansible-deploy.md", "yaml")[0])
	service, err := project.GetService("caddy-presence")
	if err != nil {
		t.Fatal(err)
	}
	checkContainer(t, service)
	const router = "traefik.http.routers.matrix-presence."
	if rule := service.Labels[router+"rule"]; rule != "Host(`matrix.example.com`) && PathRegexp(`"+pattern(t, "traefik.md")+"`)" {
		t.Errorf("the rule is %s", rule)
	}
	// On the internal entrypoint, which is its upstream, it would be its own upstream.
	if service.Labels[router+"entrypoints"] != "web-secure" {
		t.Errorf("the entrypoints are %s", service.Labels[router+"entrypoints"])
	}
}

// Caddy-docker-proxy's module isn't to be had, so its rule is applied here: a label
// "caddy.a.b: value" is the directive b with that value in the block of a.
func TestTheLabelsForCaddyDockerProxy(t *testing.T) {
	service, err := compose(t, blocks(t, "caddy-docker-proxy.md", "yaml")[0]).GetService("synapse")
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(service.Labels))
	for name := range service.Labels {
		names = append(names, name)
	}
	sort.Strings(names)
	var text strings.Builder
	for i, name := range names {
		words := strings.Split(name, ".")
		text.WriteString(words[len(words)-1] + " " + service.Labels[name])
		depth, next := len(words), 1
		if i+1 < len(names) {
			next = strings.Count(names[i+1], ".") + 1
		}
		if next > depth {
			text.WriteString(" {")
		}
		text.WriteString("\n" + strings.Repeat("}\n", max(0, depth-next)))
	}
	got := replace(t, text.String(), "{{upstreams 8008}}", "172.18.0.5:8008")
	got = strings.TrimPrefix(got, "caddy ")
	want := blocks(t, "caddy-docker-proxy.md", "")[0]
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if squeeze(got) != squeeze(want) {
		t.Errorf("the labels give\n%s\nthe page says\n%s", got, want)
	}
	adapt(t, want)
}

// Every other Caddyfile of the pages and of the packages is one for the built binary.
func TestCaddyfilesAdapt(t *testing.T) {
	adapt(t, file(t, "contrib/package/Caddyfile"))
	adapt(t, file(t, "contrib/image/Caddyfile"))
	adapt(t, "http://localhost {\n"+blocks(t, "systemd.md", "")[0]+"}\n")
}

// adapt has the built binary read a Caddyfile.
func adapt(t *testing.T, text string) {
	t.Helper()
	binary, err := sidecar.Build(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(binary, "adapt", "--config", name).CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, text)
	}
}

// checkPaths checks what an Ingress sends to caddy-presence.
func checkPaths(t *testing.T, paths []string) {
	t.Helper()
	for _, path := range routed {
		if !covered(paths, path) {
			t.Errorf("%s isn't routed", path)
		}
	}
	for _, path := range notRouted {
		// A prefix can't leave out what is below it. What passes is forwarded untouched.
		if covered(paths, path) && path != "/_matrix/client/v3/login/sso/redirect" {
			t.Errorf("%s is routed", path)
		}
	}
}

// Kubernetes refuses unknown members, as here.
func TestTheManifestsForKubernetes(t *testing.T) {
	parts := strings.Split(blocks(t, "kubernetes.md", "yaml")[0], "\n---\n")
	if len(parts) != 3 {
		t.Fatalf("there are %d manifests", len(parts))
	}
	var deployment apps.Deployment
	var service core.Service
	var ingress networking.Ingress
	for i, object := range []any{&deployment, &service, &ingress} {
		if err := kyaml.UnmarshalStrict([]byte(parts[i]), object); err != nil {
			t.Fatalf("%v in\n%s", err, parts[i])
		}
	}
	pod := deployment.Spec.Template
	for name, value := range service.Spec.Selector {
		if pod.Labels[name] != value || deployment.Spec.Selector.MatchLabels[name] != value {
			t.Errorf("the label %s of the Service, the Deployment and the pod differ", name)
		}
	}
	if *deployment.Spec.Replicas != 1 || *pod.Spec.TerminationGracePeriodSeconds < 20 {
		t.Error("there may be one pod, and it needs 20 seconds to stop")
	}
	container := pod.Spec.Containers[0]
	if container.Ports[0].Name != service.Spec.Ports[0].TargetPort.StrVal || container.Ports[0].ContainerPort != 8009 {
		t.Error("the Service doesn't lead to the container's port")
	}
	var paths []string
	for _, path := range ingress.Spec.Rules[0].HTTP.Paths {
		if path.Backend.Service.Name != service.Name || path.Backend.Service.Port.Name != service.Spec.Ports[0].Name {
			t.Errorf("%s leads to %v", path.Path, path.Backend.Service)
		}
		paths = append(paths, path.Path)
	}
	checkPaths(t, paths)
}

// The chart isn't in a registry that can be reached, so this is what its templates read: for
// each path an availability of three, and the name of a Service with its port.
func TestTheValuesForElementServerSuite(t *testing.T) {
	var values struct {
		Synapse struct {
			Ingress struct {
				AdditionalPaths []struct {
					Path, Availability string
					Service            struct {
						Name string
						Port struct{ Name string }
					}
				} `yaml:"additionalPaths"`
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(blocks(t, "ess-helm.md", "yaml")[0]))
	decoder.KnownFields(true)
	if err := decoder.Decode(&values); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, path := range values.Synapse.Ingress.AdditionalPaths {
		if path.Availability != "only_externally" || path.Service.Name != "caddy-presence" || path.Service.Port.Name != "http" {
			t.Errorf("%+v: with any other availability than only_externally it loops", path)
		}
		paths = append(paths, path.Path)
	}
	checkPaths(t, paths)
}

// The Dockerfile says what the image of `make image` says.
func TestTheDockerfileIsTheImage(t *testing.T) {
	dockerfile := file(t, "contrib/image/Dockerfile")
	image := file(t, "tools/release/image.go")
	for _, value := range regexp.MustCompile(`"((?:XDG_[A-Z_]+|PATH)=[^"]+)"`).FindAllStringSubmatch(image, -1) {
		if !strings.Contains(dockerfile, value[1]) {
			t.Errorf("the Dockerfile has no %s", value[1])
		}
	}
	cmd := regexp.MustCompile(`Cmd: +\[\]string\{(.*)\},`).FindStringSubmatch(image)
	if cmd == nil || !strings.Contains(dockerfile, "CMD ["+cmd[1]+"]") {
		t.Errorf("the image's command is %s, not the Dockerfile's", cmd)
	}
}
