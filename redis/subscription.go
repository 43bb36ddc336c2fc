package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/redis/internal/replication"
)

const (
	// dialTimeout is how long a connection may take.
	dialTimeout = 5 * time.Second
	// pingAfter is after which silence the server is asked whether it is there, and how long it may
	// take to say so. A connection that is half open is noticed in twice that, which is less than any
	// sensible ttl.
	pingAfter = 5 * time.Second
	// firstRetry is after which time a lost connection is made again, then after twice as long each time, up
	// to maxRetry. A random half of it is left out, so that not all nodes come at once.
	firstRetry, maxRetry = 250 * time.Millisecond, 15 * time.Second
)

// subscription is a connection to a channel, made again whenever it is lost.
type subscription struct {
	client  *redis.Options
	channel string
	news    gateway.News
}

// run reads until the context is done.
func (s *subscription) run(ctx context.Context) {
	retry := firstRetry
	for ctx.Err() == nil {
		began := time.Now()
		err := s.read(ctx)
		if ctx.Err() != nil {
			return
		}
		s.news.Lost(lossOf(err), s.redacted(err))
		if time.Since(began) > maxRetry {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(jittered(retry)):
		}
		retry = min(2*retry, maxRetry)
	}
}

// jittered returns a random part of a time, between half of it and all.
func jittered(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2) //nolint:gosec // G404: nothing secret
}

// read connects, and reads until the connection is lost.
func (s *subscription) read(ctx context.Context) error {
	client := redis.NewClient(s.client)
	defer func() { _ = client.Close() }()
	connection := client.Subscribe(ctx)
	defer func() { _ = connection.Close() }()
	// A read that blocks knows of no context.
	defer context.AfterFunc(ctx, func() { _ = connection.Close() })()

	if err := connection.Subscribe(ctx, s.channel); err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	reader, pinged := replication.NewReader(s.channel, s.news), false
	for {
		received, err := connection.ReceiveTimeout(ctx, pingAfter)
		var timeout net.Error
		switch {
		case err == nil:
			pinged = false
		case errors.As(err, &timeout) && timeout.Timeout() && !pinged:
			pinged = true
			if err := connection.Ping(ctx); err != nil {
				return fmt.Errorf("asking whether the server is there: %w", err)
			}
			continue
		default:
			return fmt.Errorf("reading: %w", err)
		}
		switch received := received.(type) {
		case *redis.Subscription:
			if received.Kind == "subscribe" {
				reader = replication.NewReader(s.channel, s.news)
				s.news.Connected()
			}
		case *redis.Message:
			if received.Channel == s.channel {
				reader.Line(received.Payload)
			}
		}
	}
}

// refusals are how Redis's errors begin that say that it is a matter of its configuration, or of ours.
var refusals = []string{"NOPERM", "NOAUTH", "WRONGPASS", "ERR AUTH", "ERR invalid password", "ERR Client sent AUTH"}

// lossOf returns why a connection was lost.
func lossOf(err error) gateway.FeedLoss {
	for _, refusal := range refusals {
		if strings.Contains(err.Error(), refusal) {
			return gateway.FeedRefused
		}
	}
	return gateway.FeedConnection
}

// redacted returns an error without the password: an old server repeats what it doesn't understand.
func (s *subscription) redacted(err error) error {
	if password := s.client.Password; password != "" && strings.Contains(err.Error(), password) {
		return errors.New(strings.ReplaceAll(err.Error(), password, "[password]"))
	}
	return err
}
