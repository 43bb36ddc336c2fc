package policy

import (
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// A first GET and a first PUT at the same moment can lose an acknowledged PUT in Synapse itself.
// Repeats would have mended it, and were absorbed: 5 of 24 users were offline for 16 s.
func TestAReadThatShowsSomethingElseEndsTheRepeat(t *testing.T) {
	const user = "@alice:example.com"
	now := time.Unix(0, 0)
	for _, tt := range []struct {
		d           matrix.Dialect
		wrote, read string
		absorbed    bool
	}{
		{matrix.Synapse, `{"presence":"online"}`, `{"presence":"online","last_active_ago":5,"currently_active":true}`, true},
		{matrix.Synapse, `{"presence":"online"}`, `{"presence":"offline"}`, false}, // lost, or its timer has ended it
		{matrix.Synapse, `{"presence":"online"}`, `{"presence":"unavailable","last_active_ago":300000}`, false},
		{matrix.Synapse, `{"presence":"unavailable"}`, `{"presence":"online"}`, false}, // of another device
		{matrix.Synapse, `{"presence":"online","status_msg":"x"}`, `{"presence":"online","status_msg":"x"}`, true},
		{matrix.Synapse, `{"presence":"online","status_msg":"x"}`, `{"presence":"online","status_msg":"y"}`, false},
		{matrix.Synapse, `{"presence":"online","status_msg":"x"}`, `{"presence":"online"}`, false},
		{matrix.Synapse, `{"presence":"online","status_msg":""}`, `{"presence":"online"}`, true},
		{matrix.Synapse, `{"presence":"online"}`, `{"presence":"online","status_msg":"old"}`, false}, // which the write clears
		{matrix.Synapse, `{"presence":"org.matrix.msc3026.busy"}`, `{"presence":"org.matrix.msc3026.busy"}`, true},
		{matrix.Dendrite, `{"presence":"ONLINE"}`, `{"presence":"online","status_msg":"","currently_active":true}`, true},
		{matrix.Dendrite, `{"presence":"online"}`, `{"presence":"online","status_msg":"kept"}`, true},
		{matrix.Dendrite, `{"presence":"online","status_msg":null}`, `{"presence":"online","status_msg":"kept"}`, true},
		{matrix.Dendrite, `{"presence":"online","status_msg":" a\nb "}`, `{"presence":"online","status_msg":"a b"}`, true},
		{matrix.Dendrite, `{"presence":"online","status_msg":"x"}`, `{"presence":"online","status_msg":"kept"}`, false},
		{matrix.Dendrite, `{"presence":"online"}`, `{"presence":"","status_msg":""}`, false},
		{matrix.Tuwunel, `{"presence":"away"}`, `{"presence":"offline","currently_active":false}`, true},
		{matrix.Tuwunel, `{"presence":"away"}`, `{"presence":"online","currently_active":true}`, false},
		{matrix.Tuwunel, `{"presence":"busy"}`, `{"presence":"busy"}`, true},
		{matrix.Tuwunel, `{"presence":"online"}`, `{"presence":"online","status_msg":"another device's"}`, true},
		{matrix.UnknownDialect, `{"presence":"online"}`, `{"presence":"online","status_msg":"kept"}`, true},
		{matrix.UnknownDialect, `{"presence":"online"}`, `{"presence":"offline"}`, false},
		{matrix.UnknownDialect, `{"presence":"ONLINE"}`, `{"presence":"online"}`, false}, // nobody knows
		{matrix.Synapse, `{"presence":"online"}`, `{"errcode":`, true},                   // no presence
		{matrix.Synapse, `{"presence":"online"}`, `{"presence":1}`, true},
	} {
		write := PresenceWrite{UserID: user, Body: []byte(tt.wrote)}
		r := NewRepeats(1000, now)
		r.Begin(user, now).End(&write)
		r.Observe("@bob:example.com", []byte(`{"presence":"offline"}`), tt.d)
		r.Observe(user, []byte(tt.read), tt.d)
		if got := r.Absorb(&write, 20*time.Second, now); got != tt.absorbed {
			t.Errorf("dialect %d: %s is absorbed after a read of %s: %v", tt.d, tt.wrote, tt.read, got)
		}
	}
}

// An answer from before says nothing about a write that is in flight.
func TestAReadDoesNotDisturbAWriteInFlight(t *testing.T) {
	now := time.Unix(0, 0)
	write := PresenceWrite{UserID: "@alice:example.com", Body: []byte(`{"presence":"online"}`)}
	r := NewRepeats(1000, now)
	attempt := r.Begin(write.UserID, now)
	r.Observe(write.UserID, []byte(`{"presence":"offline"}`), matrix.Synapse)
	attempt.End(&write)
	if !r.Absorb(&write, 20*time.Second, now) {
		t.Error("the write was forgotten")
	}
}
