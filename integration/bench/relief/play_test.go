package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a homeserver that answers every request after a second.
type slow struct{}

func (slow) RoundTrip(*http.Request) (*http.Response, error) {
	time.Sleep(time.Second)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(`{}`))}, nil
}

// A generator that waits for a slow server before it asks again measures a server that is
// as fast as it likes to be.
func TestLatencyIsSinceARequestWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := imagined("test", kindOfHomeserver{})
		s.world.client = &http.Client{Transport: slow{}}
		var requests []request
		for range workers + 1 {
			requests = append(requests, request{kind: sync_, by: s.world.people[0], presence: "online"})
		}
		later := request{at: 10 * time.Second, kind: sync_, by: s.world.people[0], presence: "online"}
		requests = append([]request{later}, requests...)

		begin, done := time.Now(), newTally()
		if err := s.play(t.Context(), requests, done); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 11*time.Second {
			t.Errorf("took %v", took)
		}
		if p50, most := done.quantile(0.5), done.quantile(1); p50 != 1000 || most != 2000 {
			t.Errorf("half of them took %v ms, the longest %v", p50, most)
		}
		// A sync without a next_batch is none.
		if done.requests != workers+2 || done.wrong[failed] != workers+2 || done.errors()["none"] != workers+2 {
			t.Errorf("%d requests, wrong %v, errors %v", done.requests, done.wrong, done.errors())
		}
	})
}

func TestA429IsTheHonestOnesOnly(t *testing.T) {
	done := newTally()
	refused := answer{status: http.StatusTooManyRequests}
	done.add(request{kind: read}, refused, right, 0)
	done.add(request{kind: read, token: "made up"}, refused, right, 0)
	if done.limited != 1 || done.errors()["429"] != 2 {
		t.Errorf("%d limited of %v", done.limited, done.errors())
	}
}
