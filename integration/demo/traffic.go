package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

// crowdSize is how many others there are. With three users no table is ever full, and nothing gives way to a
// homeserver that is slow: they are no load.
const crowdSize = 20

// traffic is what goes on in a trial: bob looks at alice, who says now and then that she is there; a client of the
// stranger's has gone mad, and writes all the time; and a crowd looks at each other. It goes on until ctx ends. A
// homeserver that is down is part of the trial, so nobody minds what is answered.
func (s *stage) traffic(ctx context.Context, base string, crowd []homeserver.User) {
	var running sync.WaitGroup
	defer running.Wait()
	often := func(pause time.Duration, next func() act) {
		running.Go(func() {
			for ctx.Err() == nil {
				_, _ = next().send(ctx, base)
				_ = wait(ctx, pause/2+rand.N(pause))
			}
		})
	}
	reads := func(viewer, target homeserver.User) act {
		return act{method: http.MethodGet, target: target, token: viewer.AccessToken}
	}
	writes := func(user homeserver.User, status string) act {
		return act{method: http.MethodPut, target: user, token: user.AccessToken, status: status}
	}
	often(time.Second/4, func() act { return reads(s.bob, s.alice) })
	often(15*time.Second, func() act { return writes(s.alice, "here") })
	often(time.Second/4, func() act { return writes(s.stranger, "mad") })
	for _, viewer := range crowd {
		often(time.Second, func() act { return reads(viewer, crowd[rand.IntN(len(crowd))]) })
	}
}
