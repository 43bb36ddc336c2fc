package scripted

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
)

// Preflight returns what a browser at an origin sends before it asks for alice's
// presence by a method, with header fields of those names.
func Preflight(origin, method, headers string) *http.Request {
	r := httptest.NewRequest("OPTIONS", StatusPath(Alice), nil)
	r.Header.Set("Origin", origin)
	r.Header.Set("Access-Control-Request-Method", method)
	if headers != "" {
		r.Header.Set("Access-Control-Request-Headers", headers)
	}
	return r
}

// AnswerPreflights makes the homeserver answer OPTIONS with a status and header fields
// "Name: value". It adds what is about the one response only.
func (hs *Homeserver) AnswerPreflights(status int, fields ...string) {
	hs.Mu.Lock()
	defer hs.Mu.Unlock()
	n := 0
	hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method != "OPTIONS" {
			return false, nil
		}
		hs.Mu.Lock()
		defer hs.Mu.Unlock()
		n++
		for _, name := range []string{"Date", "Server", "Set-Cookie", "Synapse-Trace-Id"} {
			w.Header().Set(name, fmt.Sprint("of answer ", n))
		}
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, strings.ReplaceAll(value, "ORIGIN", r.Header.Get("Origin")))
		}
		w.WriteHeader(status)
		return true, nil
	}
}

// What the homeservers send, see their fields in the tests on real ones.
var (
	SynapsePreflight = []string{
		"Access-Control-Allow-Origin: *",
		"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS",
		"Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date",
		"Access-Control-Expose-Headers: Synapse-Trace-Id, Server",
		"Content-Length: 0",
	}
	EchoingPreflight = []string{
		"Access-Control-Allow-Origin: ORIGIN",
		"Access-Control-Allow-Headers: authorization",
		"Access-Control-Max-Age: 86400",
		"Vary: origin, access-control-request-method, access-control-request-headers",
		"Vary: Accept-Encoding",
		"Content-Length: 0",
	}
)

// TuwunelPreflight is what tuwunel answers to every OPTIONS: 200, in chunks, with none in it.
var TuwunelPreflight = []string{
	"Access-Control-Allow-Origin: *",
	"Access-Control-Allow-Methods: DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT",
	"Access-Control-Allow-Headers: accept,authorization,content-type,if-match,if-none-match,origin,x-requested-with",
	"Access-Control-Max-Age: 86400",
	"Allow: PUT,GET,HEAD",
	"Vary: origin, access-control-request-method, access-control-request-headers",
}
