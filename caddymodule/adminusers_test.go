package caddymodule

import (
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestAdminLooksAUserUpAndHasThemForgotten(t *testing.T) {
	p := handle(t, &Handler{WriteLimit: &Limit{Events: 1, Window: caddy.Duration(time.Hour)}})
	name := p.handler.Cache.Name
	about := `{"user_id":"` + alice + `","cache":"` + name + `"}`
	lookUp := func() cacheUser {
		t.Helper()
		var users []cacheUser
		if status, problem := askAdmin(t, "POST", "users", about, &users); status != 200 || len(users) != 1 || users[0].Cache != name {
			t.Fatalf("%d %s, %+v", status, problem, users)
		}
		return users[0]
	}
	act := func(path string) {
		t.Helper()
		var done adminDone
		if status, problem := askAdmin(t, "POST", path, about, &done); status != 200 || len(done.Caches) != 1 || done.Caches[0] != name {
			t.Fatalf("%s: %d %s, %+v", path, status, problem, done)
		}
	}
	p.Put("alice-token", alice, `{"presence":"online"}`)
	p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 429, "", "")
	if is := lookUp(); is.Budgets[1].Left != 0 || is.Tokens != 1 {
		t.Errorf("%+v", is)
	}
	act("reset")
	if is := lookUp(); is.Budgets[1].Left != 1 || is.Tokens != 1 {
		t.Errorf("after the reset: %+v", is)
	}
	act("forget")
	if is := lookUp(); is.Tokens != 0 {
		t.Errorf("after she was forgotten: %+v", is)
	}
	act("purge")
	var done adminDone
	if status, problem := askAdmin(t, "POST", "purge", `{"all":true,"cache":"`+name+`"}`, &done); status != 200 || len(done.Caches) != 1 {
		t.Errorf("a purge of all: %d %s", status, problem)
	}
}

func TestAdminRefusesWhatItCannotMean(t *testing.T) {
	p := handle(t, new(Handler))
	for _, test := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "users", "", 405, "expected POST"},
		{"GET", "purge", "", 405, "expected POST"},
		{"POST", "status", "", 405, "expected GET"},
		{"POST", "users", "", 400, "EOF"},
		{"POST", "users", `{}`, 400, "whole user ID"},
		{"POST", "users", `{"user_id":"alice"}`, 400, `not "alice"`},
		{"POST", "users", `{"userid":"@a:b"}`, 400, "unknown field"},
		{"POST", "users", `{"user_id":"@a:b","cache":"nowhere"}`, 404, p.handler.Cache.Name},
		{"POST", "users", `{"all":true}`, 400, "for a purge"},
		{"POST", "reset", `{"all":true}`, 400, "for a purge"},
		{"POST", "purge", `{}`, 400, "whole user ID"},
		{"POST", "purge", `{"all":true,"user_id":"@a:b"}`, 400, "without a user_id"},
		{"POST", "forget", `{"user_id":"@` + strings.Repeat("a", maxQuestion) + `:b"}`, 400, "too large"},
	} {
		if status, problem := askAdmin(t, test.method, test.path, test.body, nil); status != test.status || !strings.Contains(problem, test.says) {
			t.Errorf("%s %s %.80s: %d %s, want %d and %q", test.method, test.path, test.body, status, problem, test.status, test.says)
		}
	}
}
