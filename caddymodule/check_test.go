package caddymodule

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// quietGlobals are global options that nothing is said of.
const quietGlobals = `{
	log {
		format filter {
			request>uri query {
				replace access_token REDACTED
			}
		}
	}
	servers {
		trusted_proxies static private_ranges
	}
}
`

// checkText returns what is said of a Caddyfile: its lines and rules.
func checkText(t *testing.T, text string) (said []string) {
	t.Helper()
	file, err := readCheckedFile("Caddyfile", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, f := range file.check() {
		if f.File == "" || f.Why == "" || strings.Contains(f.Why, "%!") {
			t.Errorf("%+v", f)
		}
		said = append(said, fmt.Sprint(f.Line, " ", f.Rule))
	}
	return said
}

// Each rule has a file of which it is said, with its line, and one of which it isn't.
func TestCheckSaysWhatIsUnwise(t *testing.T) {
	site := func(inside string) string {
		return quietGlobals + "matrix.example.com {\n" + inside + "\n\treverse_proxy localhost:8008\n}\n"
	}
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"nothing":        {site("matrix_presence"), nil},
		"no module":      {"http://localhost {\n\trespond 403\n}\n", nil},
		"proxy-flags":    {proxyText(t, "--trusted-proxies", "127.0.0.1"), nil},
		"the page alone": {"http://localhost:2020 {\n\tpresence_status\n}\n", nil},

		"a refusal":                  {site("matrix_presence\nrespond 403"), []string{"15 refusal-behind"}},
		"an error":                   {site("matrix_presence\n@bad header X-Bad *\nerror @bad 451"), []string{"16 refusal-behind"}},
		"a password in a handle":     {site("matrix_presence\nhandle /_matrix/* {\nbasic_auth {\na $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\n}"), []string{"16 refusal-behind"}},
		"a password before":          {site("matrix_presence\nbasic_auth {\na $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}"), nil},
		"a greeting":                 {site("matrix_presence\nrespond /hello hello 200"), nil},
		"a refusal of another path":  {site("matrix_presence\nrespond /_synapse/admin* 403"), nil},
		"a refusal in the order":     {site("route {\nrespond 403\nmatrix_presence\n}"), nil},
		"somebody set the order":     {strings.Replace(site("matrix_presence\nrespond 403"), "{\n", "{\n\torder matrix_presence before reverse_proxy\n", 1), nil},
		"a prefix":                   {site("matrix_presence\nhandle_path /proxied* {\nreverse_proxy localhost:8008\n}"), []string{"14 hidden-by-prefix"}},
		"a prefix of something else": {site("matrix_presence\nhandle_path /files* {\nfile_server\n}"), nil},
		"a module in the prefix":     {site("handle_path /proxied* {\nmatrix_presence\nreverse_proxy localhost:8008\n}"), nil},

		"ttl below settle":         {site("matrix_presence {\ncache {\nttl 500ms\n}\n}"), []string{"16 ttl-below-settle"}},
		"settle above ttl":         {site("matrix_presence {\ncache {\nsettle 1m\n}\n}"), []string{"16 ttl-below-settle"}},
		"stale below ttl":          {site("matrix_presence {\ncache {\nttl 1m\nstale_if_error 30s\n}\n}"), []string{"17 stale-below-ttl"}},
		"sensible times":           {site("matrix_presence {\ncache {\nttl 1m\nsettle 2s\nstale_if_error 1h\n}\n}"), nil},
		"Synapse's own limit":      {site("matrix_presence {\nsync_presence limit\n}"), []string{"15 synapse-limit"}},
		"Dendrite has none":        {site("matrix_presence {\nsync_presence limit\nhomeserver dendrite\n}"), nil},
		"no limit":                 {site("matrix_presence {\nsync_presence strip\n}"), nil},
		"a log":                    {site("log\nmatrix_presence"), []string{"14 token-in-log"}},
		"a log that is filtered":   {site("log {\nformat filter {\nrequest>uri query {\nreplace access_token REDACTED\n}\n}\n}\nmatrix_presence"), nil},
		"a page for everybody":     {site("presence_status /p/* {\nallow 0.0.0.0/0\n}"), []string{"15 page-for-everybody"}},
		"a page with a password":   {site("presence_status /p/* {\nallow 0.0.0.0/0\n}\nbasic_auth /p/* {\na $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}"), nil},
		"an open admin endpoint":   {"{\n\tadmin :2019\n}\n", []string{"2 admin-open"}},
		"another":                  {"{\n\tadmin 10.0.0.1:2019\n}\n", []string{"2 admin-open"}},
		"admin endpoints that fit": {"{\n\tadmin unix//run/caddy.sock\n}\n", nil},
		"on loopback":              {"{\n\tadmin 127.0.0.1:2020\n}\n", nil},
		"off":                      {"{\n\tadmin off\n}\n", nil},

		"no proxy is trusted":           {"{\n\tlog {\n\t\toutput discard\n\t}\n}\nhttp://:8009 {\n\tmatrix_presence\n\treverse_proxy localhost:8008\n}\n", []string{"6 trusted-proxies"}},
		"nor on loopback":               {"{\n\tlog {\n\t\toutput discard\n\t}\n}\nmatrix.example.com {\n\tbind 127.0.0.1 ::1\n\tmatrix_presence\n\treverse_proxy localhost:8008\n}\n", []string{"7 trusted-proxies"}},
		"a public site":                 {"{\n\tlog {\n\t\toutput discard\n\t}\n}\nmatrix.example.com {\n\tmatrix_presence\n\treverse_proxy localhost:8008\n}\n", nil},
		"errors with tokens in the log": {"matrix.example.com {\n\tmatrix_presence\n\treverse_proxy localhost:8008\n}\n", []string{"1 token-in-log"}},
		"a global log without a filter": {"{\n\tlog\n}\nmatrix.example.com {\n\tmatrix_presence\n\treverse_proxy localhost:8008\n}\n", []string{"2 token-in-log"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := checkText(t, test.text); !slices.Equal(got, test.want) {
				t.Errorf("said %q, want %q, of\n%s", got, test.want, test.text)
			}
		})
	}
}

// proxyText is the Caddyfile of presence-proxy.
func proxyText(t *testing.T, args ...string) string {
	t.Helper()
	text, err := caddyfileFor(t, append([]string{"--to", "http://localhost:8008", "--print-caddyfile"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What this repository recommends is nothing that it warns of.
func TestCheckHasNothingToSayOfOurOwnFiles(t *testing.T) {
	for name, want := range map[string][]string{
		"../Caddyfile.example": nil, "../contrib/image/Caddyfile": nil, "../contrib/package/Caddyfile": nil,
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := checkText(t, string(text)); !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// What is imported is told where it stands, once, however many sites import it.
func TestCheckNamesTheFileThatIsImported(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	common := write("common", "log\nmatrix_presence\n")
	main := write("Caddyfile", quietGlobals+"a.example.com {\n\timport common\n\treverse_proxy localhost:1\n}\nb.example.com {\n\timport common\n\treverse_proxy localhost:2\n}\n")
	out, err := command(t, "presence-check", "--config", main)
	if want := common + ":1: token-in-log: "; err != nil || !strings.HasPrefix(out, want) || strings.Count(out, "\n") != 1 {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	if _, err := command(t, "presence-check", "--config", main, "--strict"); err == nil || err.Error() != "1 things to look at" {
		t.Error(err)
	}
	out, err = command(t, "presence-check", "--config", main, "--json")
	wantSays(t, out, err, `[{"file":"`+common+`","line":1,"rule":"token-in-log","why":"`)

	bad := write("bad", "http://a {\n\tmatrix_presence {\n\t\ttalkers on\n\t}\n}\n")
	for says, args := range map[string][]string{
		"bad:3":             {"--config", bad},
		"no such file":      {"--config", filepath.Join(dir, "nothing")},
		"reads Caddyfiles ": {"--config", main, "--adapter", "yaml"},
	} {
		if _, err := command(t, "presence-check", args...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", args, err, says)
		}
	}
}

// A running Caddy knows which homeserver it has. As long as it doesn't, it may be Synapse.
func TestCheckAsksARunningCaddyWhichHomeserverItIs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Caddyfile")
	text := quietGlobals + "matrix.example.com {\n\tmatrix_presence {\n\t\tsync_presence limit\n\t}\n\treverse_proxy localhost:8008\n}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for caches, want := range map[string]string{
		`{"homeserver":"dendrite"},{"homeserver":"tuwunel"}`: "",
		`{"homeserver":"dendrite"},{"homeserver":"synapse"}`: "synapse-limit",
		`{"homeserver":"dendrite"},{"homeserver":""}`:        "synapse-limit",
		``: "synapse-limit",
	} {
		address := serveAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"caches":[%s]}`, caches)
		}))
		out, err := command(t, "presence-check", "--config", file, "--address", address)
		if err != nil || strings.Contains(out, "synapse-limit") != (want != "") {
			t.Errorf("%s: %q, %v", caches, out, err)
		}
	}
	if _, err := command(t, "presence-check", "--config", file, "--address", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "no Caddy answers") {
		t.Error(err)
	}
}

// The page has a Caddyfile to try it with, and says what is said of it.
func TestCheckSaysOfThePagesCaddyfileWhatThePageSays(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "\n$ cat Caddyfile\n")
	text, rest, _ := strings.Cut(example, "$ caddy-presence presence-check --config Caddyfile\n")
	want, _, ok := strings.Cut(rest, "```")
	t.Chdir(t.TempDir())
	if err := os.WriteFile("Caddyfile", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := command(t, "presence-check", "--config", "Caddyfile"); err != nil || got != want || !ok {
		t.Errorf("%v\n%s\nthe page says\n%s", err, got, want)
	}
}

// Each rule is explained.
func TestEachRuleOfCheckIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []string{"admin-open", "page-for-everybody", "ttl-below-settle", "stale-below-ttl", "synapse-limit", "trusted-proxies",
		"token-in-log", "refusal-behind", "hidden-by-prefix"} {
		if !strings.Contains(string(page), "| `"+rule+"` |") {
			t.Errorf("docs/operations.md doesn't explain %s", rule)
		}
	}
}
