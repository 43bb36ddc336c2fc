package policy

import (
	"fmt"
	"testing"
	"time"
)

func TestARepeatIsTheSameWriteOfTheSameDevice(t *testing.T) {
	const refresh = 20 * time.Second
	phone, desktop := [16]byte{1}, [16]byte{2}
	online := PresenceWrite{"@alice:example.com", phone, []byte(`{"presence":"online"}`)}
	for name, tc := range map[string]struct {
		later PresenceWrite
		after time.Duration
		want  bool
	}{
		"the same":             {online, refresh/2 - 1, true},
		"the same with spaces": {PresenceWrite{online.UserID, phone, []byte("{ \"presence\" :\n\"online\"}")}, 0, true},
		"after refresh":        {online, refresh, false},
		"so late that the next would be too late": {online, staysOnline / 2, false},
		"of another device":                       {PresenceWrite{online.UserID, desktop, online.Body}, 0, false},
		"another state":                           {PresenceWrite{online.UserID, phone, []byte(`{"presence":"offline"}`)}, 0, false},
		"with a status":                           {PresenceWrite{online.UserID, phone, []byte(`{"presence":"online","status_msg":""}`)}, 0, false},
		"spaces within a value":                   {PresenceWrite{online.UserID, phone, []byte(`{"presence":"on line"}`)}, 0, false},
		"of another user":                         {PresenceWrite{"@bob:example.com", phone, online.Body}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Unix(0, 0)
			r := NewRepeats(1000, start)
			r.Begin(online.UserID, start).End(&online)
			if got := r.Absorb(&tc.later, refresh, start.Add(tc.after)); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestNothingIsRepeatedOnceThePresenceMayHaveChanged(t *testing.T) {
	online := PresenceWrite{UserID: "@alice:example.com", Body: []byte(`{"presence":"online"}`)}
	offline := PresenceWrite{UserID: online.UserID, Body: []byte(`{"presence":"offline"}`)}
	now := time.Unix(0, 0)
	for name, tc := range map[string]struct {
		then func(r *Repeats)
		want bool
	}{
		"nothing":            {func(*Repeats) {}, true},
		"another write":      {func(r *Repeats) { r.Begin(online.UserID, now).End(&offline) }, false},
		"one that failed":    {func(r *Repeats) { r.Begin(online.UserID, now).End(nil) }, false},
		"one in flight":      {func(r *Repeats) { r.Begin(online.UserID, now) }, false},
		"something else":     {func(r *Repeats) { r.Disturb(online.UserID) }, false},
		"another user's":     {func(r *Repeats) { r.Begin("@bob:example.com", now).End(&offline) }, true},
		"the same once more": {func(r *Repeats) { r.Begin(online.UserID, now).End(&online) }, true},
		"two at a time": {func(r *Repeats) {
			first, second := r.Begin(online.UserID, now), r.Begin(online.UserID, now)
			first.End(&offline)
			second.End(&online)
		}, false},
		"two and then one": {func(r *Repeats) {
			first, second := r.Begin(online.UserID, now), r.Begin(online.UserID, now)
			second.End(&online)
			first.End(&offline)
			r.Begin(online.UserID, now).End(&online)
		}, true},
		"something else meanwhile": {func(r *Repeats) {
			attempt := r.Begin(online.UserID, now)
			r.Disturb(online.UserID)
			attempt.End(&online)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRepeats(1000, now)
			r.Begin(online.UserID, now).End(&online)
			tc.then(r)
			if got := r.Absorb(&online, time.Minute, now); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestLastWritesAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	r := NewRepeats(128, now)
	for i := range 10_000 {
		w := PresenceWrite{UserID: fmt.Sprintf("@user%d:example.com", i)}
		r.Begin(w.UserID, now.Add(time.Duration(i))).End(&w)
	}
	if n := r.Len(); n > 128 || r.Evicted() != uint64(10_000-n) {
		t.Errorf("%d users are remembered, %d were evicted", n, r.Evicted())
	}
	r.Resize(64)
	if n := r.Len(); n > 64 {
		t.Errorf("%d users are remembered after a resize to 64", n)
	}
	for i := range r.shards {
		if n := len(r.shards[i].writing); n != 0 {
			t.Errorf("%d users are taken for writing", n)
		}
	}
}

// Whatever the time between repeats, the homeserver hears one before it takes the user
// for offline.
func TestRepeatsKeepTheUserOnline(t *testing.T) {
	const online = 30 * time.Second
	w := PresenceWrite{UserID: "@alice:example.com", Body: []byte(`{"presence":"online"}`)}
	for _, refresh := range []time.Duration{time.Second, 10 * time.Second, 20 * time.Second, 25 * time.Second} {
		for every := 100 * time.Millisecond; every < online; every += 100 * time.Millisecond {
			now := time.Unix(0, 0)
			r := NewRepeats(100, now)
			r.Begin(w.UserID, now).End(&w)
			heard, absorbed := now, 0
			for range 100 {
				now = now.Add(every)
				if now.Sub(heard) >= online {
					t.Fatalf("refresh %v, repeated every %v: nothing heard for %v", refresh, every, now.Sub(heard))
				}
				if r.Absorb(&w, refresh, now) {
					absorbed++
					continue
				}
				r.Begin(w.UserID, now).End(&w)
				heard = now
			}
			if every < refresh/3 && absorbed < 50 {
				t.Errorf("refresh %v, repeated every %v: only %d of 100 absorbed", refresh, every, absorbed)
			}
		}
	}
}
