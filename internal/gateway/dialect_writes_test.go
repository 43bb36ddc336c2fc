package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// written is what a homeserver has of a user's writes. Synapse keeps a state of each device
// and one message, Dendrite one of both, tuwunel both of each device.
type written struct {
	state, message [2]string // of the devices, or the first of the user
}

// write is a PUT of a device. It reports false if the homeserver refuses it.
func (w *written) write(d dialect, device int, body []byte) bool {
	var content struct { // without case, as Dendrite
		Presence  *string         `json:"presence"`
		StatusMsg json.RawMessage `json:"status_msg"`
	}
	var members map[string]json.RawMessage // by case
	if json.Unmarshal(body, &content) != nil || json.Unmarshal(body, &members) != nil {
		return false
	}
	if d != Dendrite {
		content.Presence, content.StatusMsg = nil, members["status_msg"]
		if json.Unmarshal(members["presence"], &content.Presence) != nil {
			return false
		}
	}
	var message *string
	if content.StatusMsg != nil && json.Unmarshal(content.StatusMsg, &message) != nil || content.Presence == nil {
		return false
	}
	state := *content.Presence
	known := []string{"online", "unavailable", "offline"}
	states, messages := device, 0
	switch d {
	case synapse:
		delete(members, "presence")
		delete(members, "status_msg")
		if len(members) > 0 || !slices.Contains(known, state) || content.StatusMsg != nil && message == nil {
			return false
		}
	case Dendrite:
		states = 0
		if state = strings.ToLower(state); !slices.Contains(known, state) {
			return false
		}
	case Tuwunel:
		messages = device
		if !slices.Contains(append(known, "busy"), state) {
			state = "offline"
		}
	}
	w.state[states] = state
	switch {
	case message != nil:
		w.message[messages] = *message
	case d != Dendrite:
		w.message[messages] = ""
	}
	return true
}

// recognisedMeanwhile has the homeserver tell which one it is while writes wait.
func recognisedMeanwhile(p *proxy, d dialect, _ *options, n int) {
	if n == 2 {
		p.memory.software.mu.Lock()
		p.memory.software.dialect = d
		p.memory.software.mu.Unlock()
	}
}

// reloadedMeanwhile moves alice to another class while writes wait, and back.
func reloadedMeanwhile(p *proxy, _ dialect, h *options, n int) {
	other := *h
	switch n {
	case 3:
		other.Classes = []userClass{{Name: "other", Match: []string{alice}, WriteLimit: &rate{Events: 1, Window: 25 * time.Second}}}
		p.reload(&other)
	case 7:
		p.reload(&other)
	}
}

// minded is a message that the homeserver of these tests refuses, which nobody knows.
const minded = "minded"

// Whatever two devices write, however fast and with failures between, the homeserver has in the
// end what it would have had without us: of all that was answered with 200.
func TestWritesEndAsTheyWouldDirectly(t *testing.T) {
	for _, tc := range []struct {
		name       string
		d          dialect
		recognised string
		devices    int
		minds      bool
		meanwhile  func(p *proxy, d dialect, h *options, n int) // before the nth write
	}{
		{"Synapse", synapse, "synapse", 2, true, nil},
		{"Dendrite", Dendrite, "dendrite", 2, false, nil},
		// There a message that is refused and waits between two others of another device's
		// takes the first of these with it.
		{"Dendrite, one device", Dendrite, "dendrite", 1, true, nil},
		{"tuwunel", Tuwunel, "tuwunel", 2, true, nil},
		{"Synapse, not recognised", synapse, "auto", 2, false, nil},
		{"Dendrite, not recognised", Dendrite, "auto", 2, false, nil},
		{"tuwunel, not recognised", Tuwunel, "auto", 2, false, nil},
		{"Synapse, recognised meanwhile", synapse, "auto", 2, false, recognisedMeanwhile},
		{"Dendrite, recognised meanwhile", Dendrite, "auto", 2, false, recognisedMeanwhile},
		{"tuwunel, recognised meanwhile", Tuwunel, "auto", 2, false, recognisedMeanwhile},
		{"Synapse, reloaded meanwhile", synapse, "synapse", 2, false, reloadedMeanwhile},
		{"Dendrite, reloaded meanwhile", Dendrite, "dendrite", 2, false, reloadedMeanwhile},
	} {
		t.Run(tc.name, func(t *testing.T) {
			superseded := 0.0
			for seed := range uint64(80) {
				r := rand.New(rand.NewPCG(seed, 1))
				synctest.Test(t, func(t *testing.T) {
					h := coalescing()
					h.Homeserver, h.RepeatWrites = tc.recognised, "absorb"
					p := newProxy(t, h)
					superseded += compareWrites(p, r, tc.d, tc.devices, tc.minds, !strings.HasSuffix(tc.name, "reloaded meanwhile"), func(n int) {
						if tc.meanwhile != nil {
							tc.meanwhile(p, tc.d, h, n)
						}
					})
				})
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			least := 15.
			if strings.HasSuffix(tc.name, "reloaded meanwhile") {
				least = 5 // what waits is sent by the reload
			}
			if superseded < least {
				t.Errorf("only %v writes were superseded", superseded)
			}
		})
	}
}

// compareWrites makes random writes, and returns how many were superseded.
func compareWrites(p *proxy, r *rand.Rand, d dialect, devices int, minds, mayFail bool, before func(n int)) (superseded float64) {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	var direct, through written
	var story strings.Builder
	tokens := []string{"alice-token", "alice-phone"}
	failures := rand.New(rand.NewPCG(r.Uint64(), 2)) // the homeserver's own, under its lock
	take := func(to *written, device int, body []byte) bool {
		return !strings.Contains(string(body), minded) && to.write(d, device, body)
	}
	p.hs.AnswerBy(func(w http.ResponseWriter, hr *http.Request) (bool, error) {
		if hr.Method != http.MethodPut {
			return false, nil
		}
		body, _ := io.ReadAll(hr.Body)
		device := slices.Index(tokens, strings.TrimPrefix(hr.Header.Get("Authorization"), "Bearer "))
		p.hs.Mu.Lock()
		defer p.hs.Mu.Unlock()
		fails := mayFail && failures.IntN(6) == 0 && strings.Contains(story.String(), "\n")
		fmt.Fprintf(&story, "  sent of %d: %s, fails: %v\n", device, body, fails)
		switch {
		case fails:
			answer(w, 502, `{}`)
		case take(&through, device, body):
			answer(w, 200, `{}`)
		default:
			answer(w, 400, `{"errcode":"M_UNKNOWN","error":"no"}`)
		}
		return true, nil
	})
	for n := range 2 + r.IntN(8) {
		before(n)
		device := r.IntN(devices)
		body := `{"presence":"` + pick("online", "unavailable", "offline", "busy", "ONLINE") + `"`
		if r.IntN(2) == 0 {
			message := pick("lunch", "meeting", "")
			if minds && r.IntN(4) == 0 {
				message, minds = minded, false
			}
			body += `,"status_msg":"` + message + `"`
		}
		if !strings.Contains(body, minded) { // what is refused for one of two messages isn't for the other
			body += pick("", "", "", "", `,"status_msg":null`, `,"x":1`, `,"currently_active":true`, `,"status_msg":1`, `,"status_msg":"twice"`, `,"st\u0061tus_msg":"escaped"`,
				`,"Status_Msg":"of another case"`, `,"PRESENCE":"offline"`, `,"presence":"unavailable"`, `,"status_msg":"`+strings.Repeat("long", 1000)+`"`)
		}
		body += " }"
		status := p.Put(tokens[device], alice, body).StatusCode
		p.hs.Mu.Lock()
		fmt.Fprintf(&story, "device %d: %s: %d\n", device, body, status)
		p.hs.Mu.Unlock()
		if status == 200 {
			take(&direct, device, []byte(body))
		}
		if r.IntN(3) == 0 {
			time.Sleep(time.Duration(r.IntN(15)) * time.Second)
		}
	}
	time.Sleep(3 * time.Minute)
	synctest.Wait()
	got := p.samples()
	if through != direct || got["pending"] != 0 {
		p.t.Errorf("%sended as %+v, directly as %+v", &story, through, direct)
	}
	return got["deliveries_total superseded"] + got["deliveries_total overtaken"]
}
