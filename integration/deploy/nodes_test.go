package deploy

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// nodes are two nodes before one homeserver, which a balancer is put before as docs/cluster.md says.
type nodes struct {
	hs   *scripted.Homeserver
	both [2]*sidecar.Sidecar
}

func newNodes(t *testing.T) *nodes {
	t.Helper()
	n := &nodes{hs: scripted.New(scripted.Options{Ordered: true})}
	if err := n.hs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.hs.Stop(t.Context()); err != nil {
			t.Log(err)
		}
	})
	redis := redisserver.Start(t, redisserver.Redis)
	for i := range n.both {
		n.both[i] = suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), fmt.Sprintf(`{
	admin {$ADMIN}
}
http://{$LISTEN} {
	bind 127.0.0.1
	header X-Node %d
	matrix_presence {
		cache {
			name example.com
		}
		cluster redis {
			address %s
			secret 0123456789abcdef0123456789abcdef
			timeout 400ms
		}
	}
	reverse_proxy %s
}
`, i, redis.Address, strings.TrimPrefix(n.hs.URL(), "http://"))))
	}
	return n
}

// block is the one block of a language, or with these words in it, of docs/cluster.md, with the nodes' addresses.
func (n *nodes) block(t *testing.T, language, words string) string {
	t.Helper()
	for _, text := range blocks(t, "../cluster.md", language) {
		if strings.Contains(text, words) {
			for i, node := range n.both {
				text = replace(t, text, fmt.Sprintf("10.0.0.%d:8009", i+1), strings.TrimPrefix(node.URL, "http://"))
			}
			return text
		}
	}
	t.Fatalf("there is no block of %s with %q", language, words)
	return ""
}

// try has people read and write through a balancer, and then with one node gone. None of them gets an error.
func (n *nodes) try(t *testing.T, url string) {
	t.Helper()
	const people = 12
	var users, tokens []string
	for i := range people {
		users = append(users, fmt.Sprintf("@user%d:hs", i))
		tokens = append(tokens, n.hs.Login(users[i]))
	}
	send := func(method, token, user, body string) (node, cacheStatus, answer string) {
		t.Helper()
		status, header, text := ask(t, method, url+"/_matrix/client/v3/presence/"+user+"/status", token, body)
		if status != http.StatusOK {
			t.Fatalf("%s got %d %s", method, status, text)
		}
		return header.Get("X-Node"), header.Get("Cache-Status"), text
	}
	version := int64(0)
	round := func() (nodes map[string]int) {
		t.Helper()
		nodes = make(map[string]int)
		version++
		for i, user := range users {
			body := fmt.Sprintf(`{"presence":"online","status_msg":%q}`, scripted.Status(version))
			wrote, _, _ := send(http.MethodPut, tokens[i], user, body)
			other, _, answer := send(http.MethodGet, tokens[(i+1)%people], user, "")
			if !strings.Contains(answer, scripted.Status(version)) {
				t.Errorf("after a write of %s through node %s, node %s shows %s", body, wrote, other, answer)
			}
			nodes[wrote]++
		}
		return nodes
	}
	first := round()
	if len(first) != 2 {
		t.Errorf("all requests went to the nodes %v", first)
	}
	for i := range people {
		one, _, _ := send(http.MethodGet, tokens[i], users[i], "")
		another, _, _ := send(http.MethodGet, tokens[i], users[(i+1)%people], "")
		if one != another {
			t.Errorf("a token's requests went to the nodes %s and %s", one, another)
		}
	}
	n.both[0].Stop()
	for range 3 {
		if left := round(); left["1"] != people {
			t.Errorf("without the other node, %v answered", left)
		}
	}
}

// ask sends a request.
func ask(t *testing.T, method, url, token, body string) (status int, header http.Header, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var content strings.Builder
	if err := resp.Write(&content); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, content.String()
}

func TestCaddyBeforeNodes(t *testing.T) {
	n := newNodes(t)
	site := replace(t, n.block(t, "caddyfile", "lb_policy header"), "matrix.example.com {", "http://{$LISTEN} {\n\tbind 127.0.0.1")
	front := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), "{\n\tadmin {$ADMIN}\n}\n"+site))
	n.try(t, front.URL)
}

func TestNginxBeforeNodes(t *testing.T) {
	command := program(t, "nginx", "nginx", "libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1")
	n := newNodes(t)
	dir := t.TempDir()
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // its folders are ours
	}
	site := n.block(t, "nginx", "upstream presence")
	url := start(t, "nginx", func(listen string) string {
		return fmt.Sprintf(`daemon off; %s error_log stderr; pid %[2]s/pid; events {}
http {
	access_log off;
	client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
	%[3]s
}`, user, dir, replace(t, site, "443 ssl", listen))
	}, func(file string) *exec.Cmd { return command("-c", file, "-p", dir) })
	n.try(t, url)
}

func TestHAProxyBeforeNodes(t *testing.T) {
	command := haproxy(t)
	n := newNodes(t)
	backend := n.block(t, "haproxy", "backend presence")
	url := start(t, "haproxy", func(listen string) string {
		return fmt.Sprintf(`defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend matrix
    bind %s
    default_backend presence
%s`, listen, backend)
	}, func(file string) *exec.Cmd { return command("-db", "-f", file) })
	n.try(t, url)
}
