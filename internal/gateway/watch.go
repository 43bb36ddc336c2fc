package gateway

import (
	"bytes"
	"io"
	"net/http"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// watch is a response writer that looks at answers while they pass, as far as their status
// says that there is something to learn. It delays and changes nothing.
type watch struct {
	recorder
	wants func(status int) bool
	look  func(answer *subresponse)
	tries int // how often an answer was looked at to see whether it is whole
	done  bool
}

// maxLooks is how often a watch tries whether an answer is whole before it is over. Those
// that there is something to learn from come in one part or a few.
const maxLooks = 64

// newWatch returns a writer around w, and a function to be called when the answer is
// over. It calls wants with the status before that goes out, and look, if that says yes, with
// the answer: before its last part goes out if it can be told by then that it is whole, so
// that the client doesn't act on it sooner than we do.
func newWatch(w http.ResponseWriter, wants func(status int) bool, look func(answer *subresponse)) (http.ResponseWriter, func()) {
	c := &watch{recorder: recorder{responseWriter: responseWriter{w}}, wants: wants, look: look, done: true}
	return onStatus(c, func(status int) {
		if c.wants(status) {
			c.status, c.header, c.done = status, w.Header().Clone(), false
		}
	}), c.finish
}

func (c *watch) Write(p []byte) (int, error) {
	if !c.done {
		c.keep(p)
		c.lookIfWhole()
	}
	return c.responseWriter.Write(p)
}

// ReadFrom is there because the embedded one would go around Write.
func (c *watch) ReadFrom(r io.Reader) (int64, error) {
	if c.done {
		return c.responseWriter.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

func (c *watch) lookIfWhole() {
	plain := c.header.Get("Content-Encoding") == ""
	if c.tries++; c.tries > maxLooks || plain && !bytes.HasSuffix(bytes.TrimSpace(c.body.Bytes()), []byte("}")) {
		return
	}
	if a := c.answer(); a.isWholeJSON() {
		c.done = true
		c.look(a)
	}
}

func (c *watch) finish() {
	if !c.done {
		c.done = true
		c.look(c.answer())
	}
}

// unknownToken is the one error that says that a token is no good. All others with status
// 401, such as that of a locked account, are about an account or a request.
const unknownToken = "M_UNKNOWN_TOKEN"

// watchRefusal returns a writer that notes if the homeserver refuses the credential of a
// request, and a function to be called when the answer is over.
func (g *Gateway) watchRefusal(w http.ResponseWriter, r *http.Request, c matrix.Credential) (http.ResponseWriter, func()) {
	var was identity.Session
	m, isSites := g.store, g.isSites(r)
	return newWatch(w, func(status int) bool {
		if status != http.StatusUnauthorized || isSites() {
			return false
		}
		was = m.identities.LastSession(c)
		if !g.site.Authenticates {
			m.identities.Doubt(c) // before the client learns of it
		}
		return true
	}, func(answer *subresponse) {
		if !g.site.Authenticates || !answer.isAuthentication() {
			m.refused(c, was, answer)
		}
	})
}

// watchShown is watchRefusal for whatever a request shows to tell whose it is. Whoever shows a
// token that has ended elsewhere must not go on to have its user's presence in doubt by it.
func (g *Gateway) watchShown(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, func()) {
	shown, certain := shownCredentials(r)
	if certain {
		return g.watchRefusal(w, r, shown[0])
	}
	isSites := g.isSites(r)
	return onStatus(w, func(status int) {
		if status == http.StatusUnauthorized && !isSites() && !g.site.Authenticates {
			for _, c := range shown {
				g.store.doubtHere(c)
			}
		}
	}), func() {}
}

// refused notes that the homeserver has refused a credential with status 401.
func (m *Store) refused(c matrix.Credential, was identity.Session, answer *subresponse) {
	if answer.matrixError() == unknownToken {
		m.settleIf(m.isKnown(c) || was.UserID != "", c)
		m.revokeTokenOf(c, was)
	} else {
		m.doubtHere(c)
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*watch)(nil)
	_ io.ReaderFrom       = (*watch)(nil)
)
