package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// askAdmin returns what the admin endpoint answers, with the lists of p only.
func (p *handled) askAdmin(method string) (status int, lists []limitedUsers) {
	p.t.Helper()
	var all []limitedUsers
	status, _ = askAdmin(p.t, method, "limited_users", "", &all)
	if status == http.StatusOK {
		for _, list := range all {
			if list.Cache == p.handler.Cache.Name {
				lists = append(lists, list)
			}
		}
	}
	return status, lists
}

// askAdmin asks the admin endpoint. It returns the status with the error, or reads the JSON into
// the answer.
func askAdmin(t testing.TB, method, path, body string, answer any) (status int, problem string) {
	t.Helper()
	for _, route := range (adminAPI{}).Routes() {
		if route.Pattern != adminPrefix+path {
			continue
		}
		recorder := httptest.NewRecorder()
		err := route.Handler.ServeHTTP(recorder, httptest.NewRequest(method, route.Pattern, strings.NewReader(body)))
		if failure := (caddy.APIError{}); errors.As(err, &failure) {
			return failure.HTTPStatus, failure.Error()
		}
		if recorder.Code == http.StatusOK && answer != nil {
			if err := json.Unmarshal(recorder.Body.Bytes(), answer); err != nil {
				t.Fatalf("%v: %s", err, recorder.Body)
			}
		}
		return recorder.Code, ""
	}
	t.Fatalf("there is no %s", path)
	return 0, ""
}

func TestAdminListsWhoIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		once := &Limit{Events: 1, Window: caddy.Duration(time.Hour)}
		p := handle(t, &Handler{
			WriteLimit: once, ReadLimit: &Limit{Events: 2, Window: caddy.Duration(time.Hour)},
			SyncPresence: "limit", Homeserver: "synapse", SyncLimit: once,
		})
		start := time.Now().UTC()
		want := func(lists []limitedUsers) {
			t.Helper()
			if status, got := p.askAdmin("GET"); status != 200 || !reflect.DeepEqual(got, lists) {
				t.Errorf("got %d %v, want %v", status, got, lists)
			}
		}
		name := p.handler.Cache.Name
		want([]limitedUsers{{name, "read", start, 0, []limitedUser{}}, {name, "write", start, 0, []limitedUser{}}, {name, "sync", start, 0, []limitedUser{}}})

		for range 4 {
			p.Put("alice-token", alice, `{"presence":"online"}`)
			p.Put("alice-phone", alice, `{"presence":"offline"}`)
			p.Put("bob-token", alice, `{"presence":"offline"}`) // refused, not limited
			p.Get("bob-token", alice)
		}
		p.Put("bob-token", bob, `{"presence":"online"}`)
		p.Put("bob-token", bob, `{"presence":"online"}`)
		p.Get("carol-token", carol) // so that it is known whose the token is
		for _, query := range []string{"", "?set_presence=unavailable", ""} {
			p.Do(request("GET", "/_matrix/client/v3/sync"+query, "carol-token", ""))
		}
		// A credential of which it isn't certain what it is, but whose it may be.
		p.Do(request("GET", statusPath(alice)+"?access_token=bob-token", "made-up", ""))
		reads := limitedUsers{name, "read", start, 3, []limitedUser{{bob, 3, 3}}}
		writes := limitedUsers{name, "write", start, 8, []limitedUser{{alice, 7, 7}, {bob, 1, 1}}}
		syncs := limitedUsers{name, "sync", start, 1, []limitedUser{{carol, 1, 1}}}
		want([]limitedUsers{reads, writes, syncs})

		time.Sleep(time.Minute)
		p.reload(&Handler{WriteLimit: once, Cache: new(Cache)})
		want([]limitedUsers{reads, writes, syncs})

		if status, _ := p.askAdmin("POST"); status != http.StatusMethodNotAllowed {
			t.Errorf("POST: %d", status)
		}
		if status, _ := p.askAdmin("DELETE"); status != http.StatusNoContent {
			t.Errorf("DELETE: %d", status)
		}
		now := time.Now().UTC()
		p.Put("alice-token", alice, `{"presence":"online"}`) // the budget is as it was
		want([]limitedUsers{{name, "read", now, 0, []limitedUser{}}, {name, "write", now, 1, []limitedUser{{alice, 1, 1}}}, {name, "sync", now, 0, []limitedUser{}}})
	})
}

func TestAdminDoesNotListTheExempt(t *testing.T) {
	p := handle(t, &Handler{WriteLimit: &Limit{Events: 1, Window: caddy.Duration(time.Hour)}, Exempt: []string{alice}})
	for range 3 {
		p.Put("alice-token", alice, `{"presence":"online"}`)
	}
	if _, lists := p.askAdmin("GET"); len(lists) != len(gateway.LimitNames) || len(lists[1].Users) != 0 {
		t.Errorf("got %v", lists)
	}
}
