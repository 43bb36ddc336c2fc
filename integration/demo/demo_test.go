package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/debian"
)

func noEnv(string) string { return "" }

// TestSceneOnDendrite is what a newcomer sees: each line of the table, with who
// answered.
func TestSceneOnDendrite(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--once", "--listen", "127.0.0.1:0"}, noEnv, strings.NewReader(""), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "What it does is shown on http://127.0.0.1:") {
		t.Errorf("it doesn't say where its page is: %s", out.String())
	}
	expectScene(t, out.String(), []string{
		`bob reads alice +200 online, "at the desk" +homeserver \(.*miss\)`,
		`bob reads alice again +200 online, "at the desk" +sidecar, from memory`,
		`alice writes +200 +homeserver \(method\)`,
		`bob reads alice's new state.* 200 online, "gone for lunch" +`,
		`the stranger writes alice +403 M_FORBIDDEN +sidecar`,
		`alice writes again +200 +homeserver`,
		`alice writes again +200 +homeserver`,
		`alice writes once more +429, wait \d+ s +sidecar`,
		`a wrong token reads alice +401 M_UNKNOWN_TOKEN`,
	})
}

// TestTrialOnSynapse is what an admin sees who wants to try the documentation: where all is, and what to try.
func TestTrialOnSynapse(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"--synapse", "--once", "--listen", "127.0.0.1:0"}, noEnv, strings.NewReader(""), &out)
	if errors.Is(err, homeserver.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`Page: +http://127\.0\.0\.1:\d+/`, `Sidecar: +http://127\.0\.0\.1:\d+, before a Synapse at http://`, `alias caddy-presence=/`,
		`Alerts: +\S`, `caddy-presence presence-top --users --address \S+:\d+`, `caddy-presence presence-user @stranger:\S+ --address \S+:\d+`,
		`caddy-presence presence-check --config /\S+/Caddyfile`, `kill \d+`,
	} {
		if !regexp.MustCompile("(?m)^" + line).MatchString(out.String()) {
			t.Errorf("no line %s in:\n%s", line, out.String())
		}
	}
}

// TestSceneOfTwoNodes is what an admin sees who wants to know what a second node changes.
func TestSceneOfTwoNodes(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"--once", "--nodes"}, noEnv, strings.NewReader(""), &out)
	if errors.Is(err, debian.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?m)^Redis.*\n`).ReplaceAllString(out.String(), "")
	expectScene(t, table, []string{
		`bob reads alice at B +200 online, "at the desk" +homeserver \(.*miss\)`,
		`bob reads alice at B again +200 online, "at the desk" +sidecar, from memory`,
		`alice writes at A +200 +homeserver \(method\)`,
		`bob reads her new state at B.* 200 online, "gone for lunch" +`,
		`alice writes at B +200 +homeserver`,
		`alice writes at A +200 +homeserver`,
		`alice writes at B once more +429, wait \d+ s +sidecar`,
		`bob reads alice at A +200 online, `,
		`bob reads alice at B +200 online, `,
		`bob reads alice at A +200 online, `,
		`bob reads alice at B +200 online, `,
	})
}

// expectScene fails unless the table's lines match in that order.
func expectScene(t *testing.T, out string, lines []string) {
	t.Helper()
	_, table, _ := strings.Cut(out, "who answered")
	rest := strings.Split(table, "\n")[1:]
	for i, line := range lines {
		if i >= len(rest) || !regexp.MustCompile("^(GET|PUT) "+line).MatchString(rest[i]) {
			t.Fatalf("line %d does not match %s in:\n%s", i+1, line, out)
		}
	}
}

// TestSceneOnAnotherHomeserver uses a homeserver that is there already, in each
// of the ways to have users on it.
func TestSceneOnAnotherHomeserver(t *testing.T) {
	hs, err := homeserver.StartDendrite(t.Context(), homeserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer hs.Stop()
	token := func(name string) string {
		user, err := hs.Register(t.Context(), name, "the password")
		if err != nil {
			t.Fatal(err)
		}
		return user.AccessToken
	}
	for _, test := range []struct {
		name string
		env  map[string]string
		want string // of the error, empty for a scene
	}{
		{"shared secret", map[string]string{"REGISTRATION_SHARED_SECRET": homeserver.SharedSecret}, ""},
		{"tokens", map[string]string{"ALICE_TOKEN": token("anna"), "BOB_TOKEN": token("ben")}, ""},
		{"one token", map[string]string{"ALICE_TOKEN": "x"}, "needed together"},
		{"bad tokens", map[string]string{"ALICE_TOKEN": "x", "BOB_TOKEN": "y"}, "using ALICE_TOKEN"},
		{"nothing", nil, "set REGISTRATION_SHARED_SECRET, or ALICE_TOKEN and BOB_TOKEN"},
		{"no homeserver", map[string]string{"HOMESERVER": "http://127.0.0.1:1"}, "looking for a homeserver at HOMESERVER=http://127.0.0.1:1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := func(key string) string {
				if value, ok := test.env[key]; ok || key != "HOMESERVER" {
					return value
				}
				return hs.URL
			}
			var out bytes.Buffer
			err := run(t.Context(), []string{"--once", "--listen", "127.0.0.1:0"}, env, strings.NewReader(""), &out)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q in it", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), "gone for lunch") || !strings.Contains(out.String(), "429, wait") {
				t.Errorf("the scene lacks lines:\n%s", out.String())
			}
		})
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	err = run(t.Context(), []string{"--listen", l.Addr().String()}, noEnv, strings.NewReader(""), new(bytes.Buffer))
	if err == nil || !strings.Contains(err.Error(), "port "+port+" is in use") {
		t.Errorf("error %v, want one that names port %s", err, port)
	}
}

func TestHelp(t *testing.T) {
	var out bytes.Buffer
	if err := run(context.Background(), []string{"--help"}, noEnv, strings.NewReader(""), &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("error %v, want flag.ErrHelp", err)
	}
	for _, word := range []string{"--listen", "--once", "HOMESERVER", "REGISTRATION_SHARED_SECRET", "ALICE_TOKEN"} {
		if !strings.Contains(out.String(), word) {
			t.Errorf("help says nothing about %s:\n%s", word, out.String())
		}
	}
}
