package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// caddyServer is Caddy as a gateway sees it.
type caddyServer struct{}

// Placeholders that reverse_proxy sets.
const (
	// proxiedPlaceholder is set when it is done with a request.
	proxiedPlaceholder = "http.reverse_proxy.duration"
	// latencyPlaceholder is set when an answer begins.
	latencyPlaceholder = "http.reverse_proxy.upstream.latency"
	// statusPlaceholder is set when it has got an answer, before anything replaces that.
	statusPlaceholder = "http.reverse_proxy.status_code"
	// retriesPlaceholder is set when it won't try again.
	retriesPlaceholder = "http.reverse_proxy.retries"
	// addressPlaceholder is set when it has chosen an upstream.
	addressPlaceholder = "http.reverse_proxy.upstream.address"
)

func (caddyServer) ClientIP(r *http.Request) string {
	address, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return address
}

func (caddyServer) ClientIPHeaders(r *http.Request) []string {
	if server := serverOf(r.Context()); server != nil {
		return server.ClientIPHeaders
	}
	return nil
}

// varsPrefix begins the placeholders of variables.
const varsPrefix = "http.vars."

// Var implements Server.
func (s caddyServer) Var(r *http.Request, name string) any {
	if !s.HasUpstream(r) {
		return varsOf(r)[name]
	}
	value, _ := placeholdersOf(r).Get(varsPrefix + name)
	return value
}

// SetVar implements Server. A reverse proxy that has had the request before us may go on reading
// its variables, which are a map without a lock: a forward_auth does, and if we stand in handle_errors
// the one that failed does. Then only the placeholder of the variable is set.
func (s caddyServer) SetVar(r *http.Request, name string, value any) {
	switch vars := varsOf(r); {
	case vars == nil:
	case s.HasUpstream(r):
		s.SetLateVar(r, name, value)
	default:
		vars[name] = value
	}
}

// SetLateVar implements Server. Placeholders have a lock. They come before variables of the same name.
func (caddyServer) SetLateVar(r *http.Request, name string, value any) {
	if placeholders := placeholdersOf(r); placeholders != nil {
		placeholders.Set(varsPrefix+name, value)
	}
}

func varsOf(r *http.Request) map[string]any {
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	return vars
}

// ProxyMark implements Server. A forward_auth before us has left a time there as well.
func (caddyServer) ProxyMark(r *http.Request) (mark any, ok bool) {
	placeholders := placeholdersOf(r)
	if placeholders == nil {
		return nil, false
	}
	mark, _ = placeholders.Get(latencyPlaceholder)
	return mark, true
}

func (caddyServer) UpstreamStatus(r *http.Request) int {
	placeholders := placeholdersOf(r)
	if placeholders == nil {
		return 0
	}
	status, _ := placeholders.Get(statusPlaceholder)
	got, _ := status.(int)
	return got
}

func (caddyServer) HasUpstream(r *http.Request) bool {
	placeholders := placeholdersOf(r)
	if placeholders == nil {
		return false
	}
	_, ok := placeholders.Get(addressPlaceholder)
	return ok
}

func (caddyServer) Status(err error) (status int, ok bool) {
	failure, ok := errors.AsType[caddyhttp.HandlerError](err)
	return failure.StatusCode, ok
}

func (caddyServer) IsUnconnected(err error) bool {
	_, ok := errors.AsType[reverseproxy.DialError](err)
	return ok
}

func (s caddyServer) Route(r *http.Request, next gateway.Next, more gateway.Variable) gateway.Route {
	// The variables are a map without a lock. It belongs to the client's
	// request, which may end before ours.
	vars := varsOf(r)
	copied := make([]gateway.Variable, 0, len(vars)+1)
	for name, value := range vars {
		if name != more.Name {
			copied = append(copied, gateway.Variable{Name: name, Value: value})
		}
	}
	copied = append(copied, more)
	return &caddyRoute{
		next: next, clientIP: s.ClientIP(r), context: clientContext{r.Context()}, vars: copied, placeholders: placeholdersOf(r),
	}
}

// serverOf returns the server that a request is served by, or a handler is provisioned for, or nil.
func serverOf(ctx context.Context) *caddyhttp.Server {
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return server
}

func placeholdersOf(r *http.Request) *caddy.Replacer {
	placeholders, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return placeholders
}

// clientContext is the context of a client's request for requests of ours. These don't end when the
// client leaves, and have no part in its body and connection.
type clientContext struct{ context.Context }

func (clientContext) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }
func (clientContext) Done() <-chan struct{}                   { return nil }
func (clientContext) Err() error                              { return nil }

func (c clientContext) Value(key any) any {
	if value := noIdleTimeouts.Value(key); value != nil {
		return value
	}
	return c.Context.Value(key)
}

// noIdleTimeouts says that there is no body and no connection whose idle timeouts a handler is to
// heed. It has nothing else.
var noIdleTimeouts = caddyhttp.ContextWithIdleTimeouts(context.Background(), nil, nil)

// caddyRoute is the way of a client's request by Caddy's handlers.
type caddyRoute struct {
	next         gateway.Next
	clientIP     string
	context      clientContext
	vars         []gateway.Variable // the client's request's
	placeholders *caddy.Replacer    // likewise
}

func (c *caddyRoute) ClientIP() string         { return c.clientIP }
func (c *caddyRoute) Context() context.Context { return &c.context }

func (c *caddyRoute) Prepare(w http.ResponseWriter, r *http.Request) gateway.Prepared {
	return &caddyRequest{route: c, replacer: caddy.NewReplacer(), w: w, r: r}
}

// caddyRequest is a request of ours that goes by Caddy's handlers.
type caddyRequest struct {
	route    *caddyRoute
	replacer *caddy.Replacer
	w        http.ResponseWriter
	r        *http.Request
}

func (c *caddyRequest) Send() error {
	server := serverOf(c.r.Context())
	if server == nil {
		// reverse_proxy relies on it.
		return caddyhttp.Error(http.StatusInternalServerError, errors.New("request has no caddyhttp.Server"))
	}
	return c.route.next.ServeHTTP(c.w, c.route.prepare(c.r, c.replacer, c.w, server))
}

func (c *caddyRequest) Proxied() gateway.Proxied {
	_, done := c.replacer.Get(proxiedPlaceholder)
	status, _ := c.replacer.Get(statusPlaceholder)
	retries, _ := c.replacer.Get(retriesPlaceholder)
	got, _ := status.(int)
	return gateway.Proxied{Done: done, Status: got, Again: retries != 0}
}

// maxValue is the size in bytes of the longest variable or placeholder that a request of ours has
// from the client's. Handlers before us may have made one of anything that the client sent, and
// one after us may put it into a header field, which homeservers take no more than 16 KiB of.
const maxValue = 1 << 10

// bounded returns the value of a variable or placeholder, or an empty one if it is too long.
func bounded(value any) any {
	if text, ok := value.(string); ok && len(text) > maxValue {
		return ""
	}
	return value
}

// prepare makes the request one of Caddy's. Route groups and variables are kept in the
// context: with the client's own, the client's request would find its routes done already.
func (c *caddyRoute) prepare(r *http.Request, replacer *caddy.Replacer, w http.ResponseWriter, server *caddyhttp.Server) *http.Request {
	request := caddyhttp.PrepareRequest(r, replacer, w, server)
	vars := request.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	for _, v := range c.vars {
		// Who the client is was found out from all of its header.
		if _, ok := vars[v.Name]; !ok || v.Name == caddyhttp.ClientIPVarKey || v.Name == caddyhttp.TrustedProxyVarKey {
			vars[v.Name] = bounded(v.Value)
		}
	}
	if c.placeholders != nil {
		// What isn't known of this request, such as the outputs of "map".
		replacer.Map(func(name string) (any, bool) {
			switch name {
			case proxiedPlaceholder, statusPlaceholder, retriesPlaceholder:
				return nil, false // a forward_auth before us
			}
			value, ok := c.placeholders.Get(name)
			return bounded(value), ok
		})
	}
	return request
}
