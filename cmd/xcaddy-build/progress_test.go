package main

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := newProgress(&out)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.remind(ctx, 10*time.Second)
		log := func(record string) {
			t.Helper()
			if n, err := p.Write([]byte(record)); n != len(record) || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
		}

		time.Sleep(11 * time.Second) // a step has to begin before it can be named
		log("[INFO] exec (timeout=0s): /usr/local/go/bin/go mod tidy -e \n")
		time.Sleep(7 * time.Second)
		log("[INFO] exec (timeout=1m0s): /usr/local/go/bin/go build -o caddy \n")
		time.Sleep(13 * time.Second)
		log("[WARNING] one\ntwo\n")
		p.sayf("built %s", "caddy")
		cancel()
		synctest.Wait()

		want := `   11.0s  go mod tidy -e
   18.0s  go build -o caddy
   30.0s  still at "go build", for 12s
   31.0s  [WARNING] one
          two
   31.0s  built caddy
`
		if got := out.String(); got != want {
			t.Errorf("report:\n%s\nwant:\n%s", got, want)
		}
	})
}
