package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI is what there is below /matrix_presence/ at Caddy's admin endpoint, see docs/admin-api.md:
//
//   - status: all counters, as [status.Document] shows;
//   - limited_users: which users were over their limits most often, as [limitedUsers] shows. DELETE
//     forgets them, to count anew; budgets stay as they are;
//   - users, reset, forget, purge: about a user, see adminusers.go.
//
// User IDs are nowhere else, neither in logs nor in metrics. Caddy logs what its admin endpoint is
// asked for, so none is ever in a URL.
type adminAPI struct{}

// limitedUsers is who was over a limit since some time:
//
//	[{
//		"cache": "matrix.example.com",
//		"limit": "write",
//		"since": "2026-07-01T12:00:00Z",
//		"limited": 1312,
//		"users": [
//			{"user_id": "@bridge_1:example.com", "limited_at_least": 1203, "limited_at_most": 1207}
//		]
//	}]
//
// It counts requests over a limit whose user was known: those answered 429, writes that had
// to wait, and in mode observe those that would have been. Those who may have had
// the most come first, at most 100 of them; whoever has had more than a hundredth of
// them all is there. A reload keeps the list, as long as a handler has that store.
type limitedUsers struct {
	Cache   string        `json:"cache"` // the name of a store, as in the metrics' labels
	Limit   string        `json:"limit"` // likewise
	Since   time.Time     `json:"since"`
	Limited uint64        `json:"limited"` // of all users
	Users   []limitedUser `json:"users"`
}

// limitedUser is a user with the two numbers that the true one lies between.
type limitedUser struct {
	UserID  string `json:"user_id"`
	AtLeast uint64 `json:"limited_at_least"`
	AtMost  uint64 `json:"limited_at_most"`
}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.matrix_presence",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// adminPrefix is what all paths of the endpoint begin with.
const adminPrefix = "/matrix_presence/"

// Routes implements caddy.AdminRouter.
func (adminAPI) Routes() []caddy.AdminRoute {
	routes := []caddy.AdminRoute{}
	for path, handler := range map[string]caddy.AdminHandlerFunc{
		"status":        serveStatus,
		"limited_users": serveLimitedUsers,
		"users":         serveUsers,
		"reset":         serveReset,
		"forget":        serveForget,
		"purge":         servePurge,
		"talkers": func(http.ResponseWriter, *http.Request) error { // its name before the first release
			return caddy.APIError{HTTPStatus: http.StatusGone, Err: errors.New("the endpoint is named /matrix_presence/limited_users now")}
		},
	} {
		routes = append(routes, caddy.AdminRoute{Pattern: adminPrefix + path, Handler: handler})
	}
	return routes
}

// serveStatus looks into the stores when it is asked, as all of these do: Caddy sets up the
// endpoint before the handlers of a configuration.
func serveStatus(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return methodNotAllowed(w, http.MethodGet)
	}
	return writeJSON(w, takeStatus(time.Now()))
}

func serveLimitedUsers(w http.ResponseWriter, r *http.Request) error {
	switch r.Method {
	case http.MethodGet:
		return writeJSON(w, allLimitedUsers())
	case http.MethodDelete:
		now := time.Now()
		eachStore(func(_ string, m *pooled) {
			for _, top := range m.store.TopLimited {
				top.Reset(now)
			}
		})
		w.WriteHeader(http.StatusNoContent)
		return nil
	default:
		return methodNotAllowed(w, http.MethodGet, http.MethodDelete)
	}
}

// writeJSON answers with JSON.
func writeJSON(w http.ResponseWriter, answer any) error {
	text, err := json.Marshal(answer)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusInternalServerError, Err: err}
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(text, '\n'))
	return err
}

func methodNotAllowed(w http.ResponseWriter, allowed ...string) error {
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return caddy.APIError{
		HTTPStatus: http.StatusMethodNotAllowed,
		Err:        fmt.Errorf("method not allowed: expected %s", strings.Join(allowed, " or ")),
	}
}

// allLimitedUsers returns a list for each limit of each store, also an empty one.
func allLimitedUsers() []limitedUsers {
	lists := []limitedUsers{}
	eachStore(func(name string, m *pooled) {
		for limit, sketch := range m.store.TopLimited {
			top, total, since := sketch.Top()
			list := limitedUsers{name, gateway.LimitNames[limit], since.UTC(), total, make([]limitedUser, len(top))}
			for i, one := range top {
				list.Users[i] = limitedUser(one)
			}
			lists = append(lists, list)
		}
	})
	// The pool has no order; the limits of a name are in theirs.
	slices.SortStableFunc(lists, func(a, b limitedUsers) int { return cmp.Compare(a.Cache, b.Cache) })
	return lists
}

// Interface guard
var _ caddy.AdminRouter = (*adminAPI)(nil)
