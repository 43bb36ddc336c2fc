package gateway

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// early returns a request as it comes in TLS's early data.
func early(r *http.Request) *http.Request {
	r.TLS = new(tls.ConnectionState)
	return r
}

// A request in early data may name anybody's address. It had made-up tokens charged to that, and everybody
// behind it refused.
func TestEarlyDataChargesNoAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{RejectedLimit: &rate{Events: 1, Window: time.Hour, Burst: 2}}})
		for i := range 20 {
			token := fmt.Sprint("made-up-", i)
			p.WantError(p.Do(early(from("192.0.2.7", token))), 425, "M_UNKNOWN")
			uncertain := early(from("192.0.2.7", token))
			uncertain.URL.RawQuery = "access_token=another"
			p.WantError(p.Do(uncertain), 425, "M_UNKNOWN")
			write := early(request("PUT", statusPath(alice), token, `{"presence":"online"}`))
			write.RemoteAddr = "192.0.2.7:1"
			p.WantError(p.Do(write), 425, "M_UNKNOWN")
			logout := early(request("POST", "/_matrix/client/v3/logout/all", token, "{}"))
			logout.RemoteAddr = "192.0.2.7:1"
			p.Do(logout)
			synctest.Wait()
		}
		p.WantError(p.Do(early(request("GET", statusPath(alice), "", ""))), 401, "M_MISSING_TOKEN")
		p.Want(p.Do(from("192.0.2.7", "alice-phone")), 200, "", "")
		p.WantError(p.Do(from("192.0.2.7", "mistyped")), 401, "M_UNKNOWN_TOKEN")
		// Whose token is known charges no address.
		p.Want(p.Do(early(from("192.0.2.7", "alice-phone"))), 200, "", "matrix_presence; hit")
		p.Want(p.Do(early(request("PUT", statusPath(alice), "alice-phone", `{"presence":"online"}`))), 200, "", "")
	})
}

// What is sent much later would still be as early.
func TestWriteInEarlyDataDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{
			OverLimit: "coalesce", WriteLimit: &rate{Events: 1, Window: 10 * time.Second},
			Coalesce: &waiting{Pending: 10, MaxAge: time.Minute},
		})
		write := func() *http.Request { return request("PUT", statusPath(alice), "alice-phone", `{"presence":"online"}`) }
		p.Want(p.Do(write()), 200, "", "")
		p.WantError(p.Do(early(write())), 429, "M_LIMIT_EXCEEDED")
		p.Want(p.Do(write()), 200, "", "")
		time.Sleep(time.Minute)
		p.WantCounts(map[string]int{"PUT": 2})
	})
}
