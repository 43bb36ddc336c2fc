package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// adminQuestion is whom a request at the admin endpoint is about. It is the body of a POST, since
// Caddy logs the URLs of that endpoint, and a user ID is personal.
type adminQuestion struct {
	UserID string `json:"user_id"`

	// All is for a purge that is meant of everybody.
	All bool `json:"all"`

	// Cache is the name of a store, as in the metrics' labels. Default: each of them.
	Cache string `json:"cache"`
}

// cacheUser is what the store of a name knows of a user.
type cacheUser struct {
	Cache string `json:"cache"`
	*gateway.InspectedUser
}

// adminDone says in which stores something was done.
type adminDone struct {
	Caches []string `json:"caches"`
}

// maxQuestion is the most that a question may take, in bytes.
const maxQuestion = 8 << 10

// readQuestion reads a question, and finds the stores that it is about, by name.
func readQuestion(w http.ResponseWriter, r *http.Request, mayBeAll bool) (q adminQuestion, about []*pooled, err error) {
	if r.Method != http.MethodPost {
		return q, nil, methodNotAllowed(w, http.MethodPost)
	}
	refuse := func(status int, err error) (adminQuestion, []*pooled, error) {
		return q, nil, caddy.APIError{HTTPStatus: status, Err: err}
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestion))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&q); err != nil {
		return refuse(http.StatusBadRequest, fmt.Errorf(`reading the question, such as {"user_id": "@alice:example.com"}: %w`, err))
	}
	switch {
	case q.All && (!mayBeAll || q.UserID != ""):
		return refuse(http.StatusBadRequest, errors.New(`"all" is for a purge without a user_id`))
	case !q.All && (!strings.HasPrefix(q.UserID, "@") || !strings.Contains(q.UserID, ":")):
		return refuse(http.StatusBadRequest, fmt.Errorf("user_id must be a whole user ID, such as @alice:example.com, not %q", q.UserID))
	}
	var names []string
	for _, m := range allStores() {
		names = append(names, m.name)
		if q.Cache == "" || q.Cache == m.name {
			about = append(about, m)
		}
	}
	if q.Cache != "" && len(about) == 0 {
		return refuse(http.StatusNotFound, fmt.Errorf("there is no cache %q, but %q", q.Cache, names))
	}
	return q, about, nil
}

// serveUsers tells what is known of a user.
func serveUsers(w http.ResponseWriter, r *http.Request) error {
	q, about, err := readQuestion(w, r, false)
	if err != nil {
		return err
	}
	users := []cacheUser{}
	for _, m := range about {
		users = append(users, cacheUser{m.name, m.store.InspectUser(q.UserID, m.settings())})
	}
	return writeJSON(w, users)
}

// serveReset gives a user full budgets.
func serveReset(w http.ResponseWriter, r *http.Request) error {
	return act(w, r, false, func(s *gateway.Store, q adminQuestion) { s.Reset(q.UserID) })
}

// serveForget drops all that is known of a user but for their budgets.
func serveForget(w http.ResponseWriter, r *http.Request) error {
	return act(w, r, false, func(s *gateway.Store, q adminQuestion) { s.Forget(q.UserID) })
}

// servePurge drops what is cached of a user, or of all.
func servePurge(w http.ResponseWriter, r *http.Request) error {
	return act(w, r, true, func(s *gateway.Store, q adminQuestion) {
		if q.All {
			s.PurgeAll()
			return
		}
		s.Purge(q.UserID)
	})
}

// act does something in each store that a question is about.
func act(w http.ResponseWriter, r *http.Request, mayBeAll bool, do func(*gateway.Store, adminQuestion)) error {
	q, about, err := readQuestion(w, r, mayBeAll)
	if err != nil {
		return err
	}
	done := adminDone{Caches: []string{}}
	for _, m := range about {
		do(m.store, q)
		done.Caches = append(done.Caches, m.name)
	}
	return writeJSON(w, done)
}

// settings returns those of all handlers that have the store.
func (p *pooled) settings() (all []*gateway.Settings) {
	plans.Lock()
	defer plans.Unlock()
	return p.allSettings()
}
