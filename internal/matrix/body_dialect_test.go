package matrix

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// What a body of each class gets from each homeserver. A star marks what is certain: such a
// body may wait. The table is that of the real ones, see TestBodiesOfEachClass in integration;
// tuwunel's is from a run of 1.6.1.
func TestBodiesOfEachClassByHomeserver(t *testing.T) {
	type columns struct{ synapse, dendrite, tuwunel, unknown string }
	// serde_json goes 128 levels deep, Python some hundreds, and Python reads no integer of so
	// many digits.
	deep, digits := strings.Repeat("[", 2000)+strings.Repeat("]", 2000), strings.Repeat("9", 5000)
	for body, want := range map[string]columns{
		`{"presence":"online"}`:                                 {"online*", "online*", "online*", "online*"},
		` { "presence" : "unavailable" , "status_msg" : "x" } `: {"unavailable*", "unavailable*", "unavailable*", "unavailable*"},
		`{"presence":"offline","status_msg":""}`:                {"offline*", "offline*", "offline*", "offline*"},
		`{"pr\u0065sence":"\u006fnline"}`:                       {"online*", "online*", "online*", "online*"},
		// other case
		`{"presence":"ONLINE"}`:                      {"400", "online*", "offline*", "?"},
		`{"Presence":"online"}`:                      {"400", "online*", "400", "?"},
		`{"pre` + "\u017f" + `ence":"online"}`:       {"400", "online*", "400", "?"},
		`{"presence":"online","STATUS_MSG":"x"}`:     {"400", "online*", "online", "online"},
		`{"presence":"Busy"}`:                        {"400", "400", "offline*", "?"},
		`{"presence":"online","Presence":"offline"}`: {"400", "offline*", "online", "?"},
		`{"presence":"online","Presence":1}`:         {"400", "400", "online", "?"},
		`{"presence":"online","STATUS_MSG":{}}`:      {"400", "400", "online", "?"},
		`{"presence":"org.matrix.msc3026.BUSY"}`:     {"400", "400", "offline*", "?"},
		// unknown and empty
		`{"presence":"away"}`:                    {"400", "400", "offline*", "?"},
		`{"presence":" online"}`:                 {"400", "400", "offline*", "?"},
		`{"presence":""}`:                        {"400", "400", "offline*", "?"},
		`{"presence":"busy"}`:                    {"400", "400", "busy*", "?"},
		`{"presence":"org.matrix.msc3026.busy"}`: {"busy", "400", "offline*", "?"},
		// missing
		`{}`:                                {"400", "400", "400", "400"},
		`{"status_msg":"x"}`:                {"400", "400", "400", "400"},
		`{"content":{"presence":"online"}}`: {"400", "400", "400", "400"},
		// twice
		`{"presence":"online","presence":"offline"}`:                 {"offline*", "offline*", "offline*", "offline*"},
		`{"presence":"away","presence":"online"}`:                    {"online*", "online*", "online*", "online*"},
		`{"presence":"online","presence":"away"}`:                    {"400", "400", "offline*", "?"},
		`{"presence":1,"presence":"online"}`:                         {"online*", "400", "online*", "online"},
		`{"presence":"online","presence":null}`:                      {"400", "online*", "400", "?"},
		`{"presence":"online","status_msg":1,"status_msg":"x"}`:      {"online*", "400", "online*", "online"},
		`{"presence":"online","status_msg":"x","status_msg":null}`:   {"400", "online*", "online*", "online"},
		`{"presence":"online","status_msg":null,"status_msg":"x"}`:   {"online*", "online*", "online*", "online*"},
		`{"presence":"online","presence":"online","presence":false}`: {"400", "400", "400", "400"},
		// What doesn't count has to be read all the same.
		`{"presence":` + deep + `,"presence":"online"}`:                   {"online", "400", "online", "online"},
		`{"presence":1e999,"presence":"online"}`:                          {"online", "400", "online", "online"},
		`{"presence":` + digits + `,"presence":"online"}`:                 {"online", "400", "online", "online"},
		`{"presence":"\udc00","presence":"online"}`:                       {"online", "online*", "online", "online"},
		`{"presence":"online","status_msg":"\ud83d","status_msg":"x"}`:    {"online", "online*", "online", "online"},
		`{"presence":"online","status_msg":` + deep + `,"status_msg":""}`: {"online", "400", "online", "online"},
		// not a string
		`{"presence":null}`:                         {"400", "400", "400", "400"},
		`{"presence":1}`:                            {"400", "400", "400", "400"},
		`{"presence":["online"]}`:                   {"400", "400", "400", "400"},
		`{"presence":{"presence":"online"}}`:        {"400", "400", "400", "400"},
		`{"presence":"online","status_msg":null}`:   {"400", "online*", "online*", "online"},
		`{"presence":"online","status_msg":1}`:      {"400", "400", "400", "400"},
		`{"presence":"online","status_msg":{}}`:     {"400", "400", "400", "400"},
		`{"presence":"online","status_msg":["x"]}`:  {"400", "400", "400", "400"},
		`{"presence":"online","status_msg":true}`:   {"400", "400", "400", "400"},
		`{"presence":"online","status_msg":"null"}`: {"online*", "online*", "online*", "online*"},
		// further members
		`{"presence":"online","currently_active":true}`: {"400", "online*", "online", "online"},
		`{"presence":"away","x":1e999}`:                 {"400", "400", "offline", "?"},
		// no object
		`["unavailable","text"]`: {"400", "400", "unavailable", "?"},
		`["unavailable",null]`:   {"400", "400", "unavailable", "?"},
		`["unavailable",1]`:      {"400", "400", "400", "400"},
		`["unavailable"]`:        {"400", "400", "400", "400"},
		`[1,"x"]`:                {"400", "400", "400", "400"},
		`[]`:                     {"400", "400", "400", "400"},
		`"online"`:               {"400", "400", "400", "400"},
		`null`:                   {"400", "400", "400", "400"},
		`1`:                      {"400", "400", "400", "400"},
		``:                       {"400", "400", "400", "400"},
		`{`:                      {"400", "400", "400", "400"},
		`{"presence":"online"}{`: {"400", "400", "400", "400"},
		"{\"presence\":\"online\",\"status_msg\":\"\xff\"}": {"400", "400", "400", "400"},
		// text that databases, queues and parsers mind or don't
		`{"presence":"online","status_msg":"\ud83d\ude00"}`: {"online*", "online*", "online*", "online*"},
		`{"presence":"online","status_msg":"\ud83d"}`:       {"online", "online", "online", "online"},
		`{"presence":"online","status_msg":"\u0000"}`:       {"online", "online", "online", "online"},
		`{"presence":"online","status_msg":"a\nb"}`:         {"online*", "online*", "online*", "online*"},
		`{"presence":"\ud83d"}`:                             {"400", "400", "offline", "?"},
	} {
		got := columns{reads(body, Synapse), reads(body, Dendrite), reads(body, Tuwunel), reads(body, UnknownDialect)}
		if got != want {
			t.Errorf("%s: %v, want %v", body, got, want)
		}
	}
}

// reads is a column of the table. A state that isn't certain is "?".
func reads(body string, d Dialect) string {
	if d.read([]byte(body)).taken == notTaken {
		return "400"
	}
	text := BodyPresence([]byte(body), d).String()
	if text == "" {
		text = "?"
	}
	if TakesBody([]byte(body), d) {
		text += "*"
	}
	return text
}

// What is refused here at once, without being asked: by presence_values, and by default what
// the homeserver never takes.
func TestPresenceValuesFollowTheHomeserver(t *testing.T) {
	for _, tt := range []struct {
		d      Dialect
		values []string
		taken  []string // of the words below
	}{
		{UnknownDialect, nil, []string{"online", "ONLINE", "busy", "org.matrix.msc3026.busy"}},
		{Synapse, nil, []string{"online", "org.matrix.msc3026.busy"}},
		{Dendrite, nil, []string{"online", "ONLINE"}},
		{Tuwunel, nil, []string{"online", "ONLINE", "busy", "org.matrix.msc3026.busy", "away", ""}},
		{Synapse, []string{"Online"}, []string{"online", "ONLINE"}}, // which of the two it takes Synapse says
		{Dendrite, []string{"busy"}, []string{"busy"}},
		// There another case is another state.
		{Tuwunel, []string{"ONLINE"}, []string{"online", "ONLINE"}},
		{Tuwunel, []string{"online"}, []string{"online"}},
		{Tuwunel, []string{"away"}, []string{"away"}},
	} {
		for _, word := range []string{"online", "ONLINE", "busy", "org.matrix.msc3026.busy", "away", ""} {
			body := fmt.Appendf(nil, `{"presence":%q}`, word)
			err := CheckPresenceBody(body, tt.values, tt.d)
			if want := slices.Contains(tt.taken, word); (err == nil) != want {
				t.Errorf("dialect %d, values %q: %s: %v", tt.d, tt.values, body, err)
			}
		}
	}
	if err := CheckPresenceBody([]byte(`["online","x"]`), nil, Tuwunel); err != nil {
		t.Errorf("an array on tuwunel: %v", err)
	}
	if err := CheckPresenceBody([]byte(`["online","x"]`), nil, UnknownDialect); err == nil {
		t.Error("an array is taken anywhere")
	}
}

// model is a homeserver that reads bodies by the standard library, and keeps what users of
// two devices see.
type model struct {
	d Dialect
	// state and message are those of a device, or of the user, as the homeserver has them.
	state   [2]string
	message [2]string
}

// write reports whether the homeserver takes the body.
func (m *model) write(device int, body []byte) bool {
	var presence, message string
	cleared := true
	switch m.d {
	case Synapse:
		var ok bool
		if presence, ok = writtenOnSynapse(body); !ok || !slices.Contains([]string{"online", "unavailable", "offline"}, presence) {
			return false
		}
		var content map[string]string
		_ = json.Unmarshal(body, &content)
		message = content["status_msg"]
	case Dendrite:
		var content struct {
			Presence  string  `json:"presence"`
			StatusMsg *string `json:"status_msg"`
		}
		if !utf8.Valid(body) || json.Unmarshal(body, &content) != nil {
			return false
		}
		if presence = strings.ToLower(content.Presence); !slices.Contains([]string{"online", "unavailable", "offline"}, presence) {
			return false
		}
		if cleared = content.StatusMsg != nil; cleared {
			message = *content.StatusMsg
		}
	case Tuwunel:
		var content map[string]any
		if !utf8.Valid(body) || json.Unmarshal(body, &content) != nil {
			return false
		}
		var ok bool
		if presence, ok = content["presence"].(string); !ok {
			return false
		}
		if text, given := content["status_msg"]; given && text != nil {
			if message, ok = text.(string); !ok {
				return false
			}
		}
		if !slices.Contains([]string{"online", "unavailable", "offline", "busy"}, presence) {
			presence = "offline"
		}
	}
	states, messages := device, device
	if m.d == Dendrite {
		states = 0
	}
	if m.d != Tuwunel {
		messages = 0
	}
	m.state[states] = presence
	if cleared {
		m.message[messages] = message
	}
	return true
}

func after(d Dialect, start model, devices []int, bodies ...[]byte) model {
	start.d = d
	for i, body := range bodies {
		start.write(devices[i], body)
	}
	return start
}

// randomBody is one that homeservers differ about, more or less.
func randomBody(r *rand.Rand) []byte {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	key := pick("presence", "presence", "presence", "presence", "Presence", `pr\u0065sence`)
	word := pick(`"online"`, `"unavailable"`, `"offline"`, `"online"`, `"ONLINE"`, `"busy"`, `"away"`, `""`, `null`, `1`)
	body := `{"` + key + `":` + word
	if r.IntN(2) == 0 {
		body += `,"` + pick("status_msg", "status_msg", "status_msg", "STATUS_MSG", "x") + `":` + pick(`"a"`, `"b"`, `""`, `null`, `1`, `"\""`, `"}"`)
	}
	if r.IntN(8) == 0 {
		body += `,"status_msg":` + pick(`"c"`, `null`)
	}
	if r.IntN(16) == 0 {
		body = `{"presence":"unavailable",` + body[1:]
	}
	return []byte(body + pick("}", " } ", "}\n"))
}

// Of writes of two devices, one is not sent: the state in the end is what it would be, on the
// homeserver that it is for, and for one that isn't recognised on all. If the newest is not
// taken, what is sent instead gives the state that it would be without the newest.
func TestSupersededWritesLeaveTheSameState(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	both, sent := 0, 0
	for range 15_000 {
		first, newest := randomBody(r), randomBody(r)
		between := make([][]byte, r.IntN(3))
		for i := range between {
			between[i] = randomBody(r)
		}
		all := slices.Concat([][]byte{first}, between, [][]byte{newest})
		devices := []int{0}
		for range between {
			devices = append(devices, 1)
		}
		devices = append(devices, 0)
		start := model{state: [2]string{"s0", "s1"}, message: [2]string{"m0", "m1"}}

		for _, d := range []Dialect{UnknownDialect, Synapse, Dendrite, Tuwunel} {
			if slices.ContainsFunc(all, func(body []byte) bool { return !TakesBody(body, d) }) {
				continue // it doesn't wait
			}
			read := func(body []byte) WriteBody { return ReadWriteBody(body, d) }
			others := make([]WriteBody, len(between))
			for i := range between {
				others[i] = read(between[i])
			}
			superseded, ok := read(newest).Supersede(read(first), others)
			body := superseded.Text
			if !ok {
				if both++; d != UnknownDialect {
					t.Fatalf("dialect %d: %s, %s, %s: no body does", d, first, between, newest)
				}
				continue
			}
			sent++
			if !TakesBody(body, d) {
				t.Fatalf("dialect %d: %s, %s, %s became %s, which isn't surely taken", d, first, between, newest, body)
			}
			for _, real := range homeservers {
				if d != UnknownDialect && d != real {
					continue
				}
				want := after(real, start, devices, all...)
				got := after(real, start, devices[1:], slices.Concat(between, [][]byte{body})...)
				if got != want {
					t.Fatalf("dialect %d on %d: %s, %s, %s became %s: %+v, want %+v", d, real, first, between, newest, body, got, want)
				}
			}
			if d == UnknownDialect {
				continue
			}
			fallback := read(first).Fallback(others)
			instead := fallback.Text
			// What is known of both is what is in them.
			for _, b := range []WriteBody{superseded, fallback} {
				if again := read(b.Text).read; again.State != b.read.State || again.Status != b.read.Status {
					t.Fatalf("dialect %d: %s is known as %+v, and read as %+v", d, b.Text, b.read, again)
				}
			}
			want := after(d, start, devices, all[:len(all)-1]...)
			got := after(d, start, devices[1:], slices.Concat(between, [][]byte{instead})...)
			if got != want || !TakesBody(instead, d) {
				t.Fatalf("dialect %d: %s, %s: instead of the newest %s: %+v, want %+v", d, first, between, instead, got, want)
			}
		}
	}
	if both == 0 || sent < 2_000 {
		t.Errorf("%d cases of one, %d of both", sent, both)
	}
}

// What is taken for certain the model of each homeserver takes, and sets that state by it.
func FuzzBodyPresence(f *testing.F) {
	for _, body := range []string{
		`{"presence":"online","status_msg":"x"}`, `{"PRESENCE":"Online"}`, `{"presence":null}`, `{"presence":"x","presence":"online"}`,
		`["online",null]`, `{"presence":"online","status_msg":null,"STATUS_MSG":"x"}`, `{"pre\u017fence":"\u0130online"}`, `{"presence":"offline","Presence":"online"}`, `{"presence":"online","PRESENCE":"offline"}`,
		`{"presence":"offline","presence":null}`, `{"presence":"offline","Presence":null,"PRESENCE":"online"}`, `{"presence":"onl\u0130ne"}`, "{\"presence\":\"\xff\"}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, d := range homeservers {
			m := model{d: d}
			took := m.write(0, body)
			read := d.read(body)
			if read.taken == surelyTaken && !took || read.taken == notTaken && took {
				t.Fatalf("%q on %d: read as %+v, taken: %v", body, d, read, took)
			}
			if took && read.State != NoPresence && read.State.String() != m.state[0] {
				t.Fatalf("%q on %d: sets %q, read as %q", body, d, m.state[0], read.State)
			}
			if took && read.Status != "" {
				if text, _ := DecodeString(read.Status); text != m.message[0] {
					t.Fatalf("%q on %d: the message %q, read as %q", body, d, m.message[0], text)
				}
			}
		}
		// What presence_values leave out no spelling sets.
		for _, d := range homeservers {
			for _, told := range []Dialect{d, UnknownDialect} {
				m := model{d: d}
				if CheckPresenceBody(body, []string{"online", "unavailable"}, told) == nil && m.write(0, body) &&
					m.state[0] != "online" && m.state[0] != "unavailable" && (told == d || d != Tuwunel) {
					t.Fatalf("%q sets %s on %d", body, m.state[0], d)
				}
			}
		}
		if !TakesBody(body, UnknownDialect) {
			return
		}
		for _, d := range homeservers {
			if !TakesBody(body, d) || BodyPresence(body, d) != BodyPresence(body, UnknownDialect) {
				t.Fatalf("%q: certain for all, but %d reads it as %+v", body, d, d.read(body))
			}
		}
	})
}
