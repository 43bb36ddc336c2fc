package counting

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestEachRequestIsCountedOnceAndPassedOnAsItCame(t *testing.T) {
	type seen struct{ method, target, from string }
	var got seen
	homeserver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = seen{r.Method, r.RequestURI, r.Header.Get("X-Forwarded-For")}
		io.WriteString(w, "answer")
	}))
	defer homeserver.Close()
	hop, err := Start(homeserver.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer hop.Stop()
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()

	for _, c := range []struct {
		method, target string
		want           Counts
	}{
		{http.MethodGet, "/_matrix/client/v3/presence/@a%2Fb:c/status", Counts{Reads: 1}},
		{http.MethodPut, "/_matrix/client/v3/presence/@a:c/status?user_id=@a:c", Counts{Writes: 1}},
		{http.MethodOptions, "/_matrix/client/v3/presence/@a:c/status", Counts{Preflights: 1}},
		{http.MethodGet, "/_matrix/client/v3/account/whoami", Counts{Whoami: 1}},
		{http.MethodGet, "/_matrix/client/v3/sync?set_presence=online", Counts{Syncs: 1}},
		{http.MethodPost, "/_matrix/client/v3/logout", Counts{Other: 1}},
	} {
		before := hop.Counts()
		req, err := http.NewRequest(c.method, "http://"+hop.Address+c.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "203.0.113.7")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if since := hop.Counts().Since(before); since != c.want || since.All() != 1 {
			t.Errorf("%s %s: counted %+v, want %+v", c.method, c.target, since, c.want)
		}
		if want := (seen{c.method, c.target, "203.0.113.7"}); got != want {
			t.Errorf("passed on %+v, want %+v", got, want)
		}
	}
}
