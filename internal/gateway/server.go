package gateway

import (
	"context"
	"errors"
	"net/http"
)

// Next is the handler that a request goes to next, and with it to the homeserver. An error that
// it returns has not been answered.
type Next interface {
	ServeHTTP(w http.ResponseWriter, r *http.Request) error
}

// Variable is a variable of a request, see [Server.SetVar].
type Variable struct {
	Name  string
	Value any
}

// Server is the web server that a [Gateway] stands in.
type Server interface {
	// ClientIP returns the address of a request's client as the server tells it, which
	// believes the proxies that it trusts. It is empty if the server doesn't tell.
	ClientIP(r *http.Request) string

	// ClientIPHeaders returns the names of the header fields by which trusted proxies
	// name a client, the most important first.
	ClientIPHeaders(r *http.Request) []string

	// Var returns a variable of a request, or nil if there is none of that name.
	Var(r *http.Request, name string) any

	// SetVar gives a request a variable, which access logs and other handlers can read. It must
	// not be called once the request has been sent on, see inHand.
	SetVar(r *http.Request, name string, value any)

	// SetLateVar is SetVar for a request that has been sent on. It must be safe for use by several
	// goroutines. Only what reads a variable by its placeholder need find it, as access logs do.
	SetLateVar(r *http.Request, name string, value any)

	// Route returns the way of a client's request to the homeserver, which starts with
	// next. What is sent there has the client's variables, and one more.
	Route(r *http.Request, next Next, more Variable) Route

	// ProxyMark returns something that changes when a reverse proxy has brought an answer
	// to a request. It reports false if that can't be told.
	ProxyMark(r *http.Request) (mark any, ok bool)

	// UpstreamStatus returns the status that a reverse proxy has got for a request, which may
	// not be what the client gets, or 0 if there is none.
	UpstreamStatus(r *http.Request) int

	// HasUpstream reports whether a reverse proxy has chosen where to send a request.
	HasUpstream(r *http.Request) bool

	// Status returns the status that an error of a next handler gives an answer, or
	// false if the error names none.
	Status(err error) (status int, ok bool)

	// IsUnconnected reports whether an error of a next handler says that it couldn't
	// connect to the homeserver.
	IsUnconnected(err error) bool
}

// Route is the way of a client's request to the homeserver, for requests of our own. It
// outlives the client's request.
type Route interface {
	// ClientIP is that of the client's request.
	ClientIP() string

	// Context returns the values of the context of the client's request, without its end, and
	// without what is about its connection.
	Context() context.Context

	// Prepare gives a request, whose context comes from Context, the variables and placeholders
	// of the client's, but for long ones: they may hold what the client chose.
	Prepare(w http.ResponseWriter, r *http.Request) Prepared
}

// Prepared is a request of ours that can be sent, once.
type Prepared interface {
	// Send sends it to the next handler.
	Send() error

	// Proxied returns what a reverse proxy has done with it when Send is over, also by a panic.
	Proxied() Proxied
}

// Proxied is what a reverse proxy has done with a request.
type Proxied struct {
	Done   bool // it has dealt with it
	Status int  // what it was answered with, which may not be what the client gets; or 0
	Again  bool // it has tried more than once
}

// Failure is an error with the status that it gives the answer.
type Failure struct {
	Status int
	Err    error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// fail gives an error a status.
func fail(status int, err error) error { return &Failure{status, err} }

// statusOf returns the status that an error gives an answer, or 0 if it names none.
func statusOf(server Server, err error) int {
	if failure, ok := errors.AsType[*Failure](err); ok {
		return failure.Status
	}
	status, _ := server.Status(err)
	return status
}
