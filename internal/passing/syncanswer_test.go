package passing

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// told is what a sync tells, as "sender content".
func told(roomsLast bool, answer string, pieces ...int) (events []string, more bool) {
	reader := NewSyncAnswer(roomsLast, func(sender string, content []byte) {
		events = append(events, sender+" "+string(content))
	})
	more = true
	for i := 0; len(answer) > 0; i++ {
		n := len(answer)
		if len(pieces) > 0 {
			n = min(n, max(1, pieces[i%len(pieces)]))
		}
		more = reader.Write([]byte(answer[:n]))
		answer = answer[n:]
	}
	return events, more
}

func TestSyncAnswersTellPresences(t *testing.T) {
	const alice = `{"type":"m.presence","sender":"@a:hs","content":{"presence":"online","status_msg":"}]\"{"}}`
	const bob = `{"content":{"presence":"offline"},"sender":"@b:hs","type":"m.presence"}`
	a, b := `@a:hs {"presence":"online","status_msg":"}]\"{"}`, `@b:hs {"presence":"offline"}`
	for name, tt := range map[string]struct {
		answer    string
		roomsLast bool
		want      []string
	}{
		"some":               {`{"next_batch":"s1","presence":{"events":[` + alice + `,` + bob + `]},"rooms":{}}`, true, []string{a, b}},
		"broken off":         {`{"presence":{"events":[` + alice + `,{"type":"m.pres`, true, []string{a}},
		"after the rooms":    {`{"rooms":{"join":{"!r:hs":{"presence":{"events":[` + bob + `]}}}},"presence":{"events":[` + alice + `]}}`, false, []string{a}},
		"rooms come first":   {`{"rooms":{},"presence":{"events":[` + alice + `]}}`, true, nil},
		"twice":              {`{"presence":{"events":[` + alice + `]},"presence":{"events":[` + bob + `]}}`, false, []string{a}},
		"none":               {`{"next_batch":"s1","account_data":{"events":[` + alice + `]},"rooms":{}}`, true, nil},
		"no list":            {`{"presence":{"events":{"x":` + alice + `}}}`, true, nil},
		"a list":             {`{"presence":[` + alice + `]}`, true, nil},
		"another event":      {`{"presence":{"events":[{"type":"m.typing","sender":"@a:hs","content":{}},` + bob + `]}}`, true, []string{b}},
		"sender twice":       {`{"presence":{"events":[{"type":"m.presence","sender":"@a:hs","sender":"@b:hs","content":{}}]}}`, true, nil},
		"no sender":          {`{"presence":{"events":[{"type":"m.presence","content":{"user_id":"@a:hs"}}]}}`, true, nil},
		"sender is a number": {`{"presence":{"events":[{"type":"m.presence","sender":1,"content":{}}]}}`, true, nil},
		"content is a word":  {`{"presence":{"events":[{"type":"m.presence","sender":"@a:hs","content":"x"}]}}`, true, nil},
		"no JSON":            {`{"presence":{"events":[{"type":"m.presence","sender":"@a:hs","content":{x}},` + bob + `]}}`, true, []string{b}},
		"a large one": {`{"presence":{"events":[{"type":"m.presence","sender":"@a:hs","content":{"status_msg":"` +
			strings.Repeat("a", maxTaken) + `"}},` + bob + `]}}`, true, []string{b}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pieces := range [][]int{nil, {1}, {5, 2}} {
				if events, _ := told(tt.roomsLast, tt.answer, pieces...); !slices.Equal(events, tt.want) {
					t.Errorf("in pieces of %v: %q, want %q", pieces, events, tt.want)
				}
			}
		})
	}
}

func TestSyncAnswersAreReadNoFurtherThanNeeded(t *testing.T) {
	for _, answer := range []string{
		`{"presence":{"events":[]}`, `{"next_batch":"s1","rooms":`, `[`, `{"presence":null`, `{"presence":{"events":["a"`, `{"presence":{"events":[{"a":1},{`,
	} {
		_, more := told(true, answer)
		if wants := strings.HasSuffix(answer, `,{`); more != wants {
			t.Errorf("after %s more is wanted: %v", answer, more)
		}
	}
}

func TestGzipIsUnpackedWithinBounds(t *testing.T) {
	pack := func(text io.Reader) []byte {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		io.Copy(w, text)
		w.Close()
		return packed.Bytes()
	}
	const event = `{"type":"m.presence","sender":"@a:hs","content":{}}`
	small := pack(strings.NewReader(`{"presence":{"events":[` + event + `]}}`))
	bomb := pack(io.MultiReader(strings.NewReader(`{"x":"`), io.LimitReader(repeat('a'), 64<<20), strings.NewReader(`","presence":{"events":[`+event+`]}}`)))
	long := pack(io.MultiReader(strings.NewReader(`{"presence":{"events":[`+event+`]},"x":"`), io.LimitReader(noise(), 4*maxPacked), strings.NewReader(`"}`)))
	for name, tt := range map[string]struct {
		packed []byte
		want   int
	}{
		"small": {small, 1}, "a bomb": {bomb, 0}, "long": {long, 1}, "broken off": {small[:len(small)-9], 1}, "none": {[]byte(`{"presence":`), 0}, "empty": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n, read := 0, 0
			answer := NewSyncAnswer(false, func(string, []byte) { n++ })
			unpack := NewGunzip(counting{answer, &read})
			for rest := tt.packed; len(rest) > 0; {
				piece := rest[:min(len(rest), 1000)]
				if rest = rest[len(piece):]; !unpack.Write(piece) {
					break
				}
				if len(unpack.packed) > maxPacked {
					t.Fatalf("%d bytes are kept", len(unpack.packed))
				}
			}
			unpack.End()
			if n != tt.want || read > maxUnpacked {
				t.Errorf("%d events of %d bytes, want %d", n, read, tt.want)
			}
		})
	}
}

type counting struct {
	Reader
	n *int
}

func (c counting) Write(p []byte) bool { *c.n += len(p); return c.Reader.Write(p) }

type repeat byte

func (r repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

// noise is letters that gzip makes little shorter.
func noise() io.Reader { return letters{rand.New(rand.NewPCG(1, 2))} }

type letters struct{ random *rand.Rand }

func (l letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"[l.random.IntN(64)]
	}
	return len(p), nil
}

// FuzzSyncAnswer holds what is read of a sync against encoding/json, in whatever pieces.
func FuzzSyncAnswer(f *testing.F) {
	f.Add([]byte(`{"presence":{"events":[{"type":"m.presence","sender":"@\u0061:hs","content":{"presence":"online"}}]},"rooms":{"join":{}}}`), uint64(1))
	f.Add([]byte(`{"rooms":{"join":{}},"presence":{"x":1,"events":[{"sender":"@a:hs"},1,"x"]}}`), uint64(2))
	f.Fuzz(func(t *testing.T, answer []byte, seed uint64) {
		if len(answer) > maxTaken {
			return
		}
		random := rand.New(rand.NewPCG(seed, 1))
		events, _ := told(false, string(answer))
		again, _ := told(false, string(answer), 1+random.IntN(20), 1+random.IntN(5), 1+random.IntN(50))
		if !slices.Equal(events, again) {
			t.Fatalf("at once %q, in pieces %q", events, again)
		}
		var object struct {
			Presence struct{ Events []json.RawMessage }
		}
		if !json.Valid(answer) || json.Unmarshal(answer, &object) != nil {
			return
		}
		for _, event := range events {
			if !slices.ContainsFunc(object.Presence.Events, func(raw json.RawMessage) bool { return event == tellsByJSON(raw) }) &&
				strings.Count(strings.ToLower(string(answer)), "presence\"") == 1 && strings.Count(string(answer), "events") == 1 {
				t.Fatalf("%q is no event to encoding/json", event)
			}
		}
	})
}

// tellsByJSON is what encoding/json makes of an event, as told has it.
func tellsByJSON(raw json.RawMessage) string {
	var event map[string]json.RawMessage
	var kind, sender string
	_ = json.Unmarshal(raw, &event)
	_ = json.Unmarshal(event["type"], &kind)
	_ = json.Unmarshal(event["sender"], &sender)
	return sender + " " + string(event["content"])
}

func BenchmarkSyncAnswer(b *testing.B) {
	var text strings.Builder
	text.WriteString(`{"next_batch":"s72595_4483_1934","account_data":{"events":[]},"presence":{"events":[`)
	for i := range 20 {
		if i > 0 {
			text.WriteString(",")
		}
		fmt.Fprintf(&text, `{"type":"m.presence","sender":"@user%d:example.com","content":{"presence":"online","last_active_ago":1000,"currently_active":true}}`, i)
	}
	text.WriteString(`]},"device_one_time_keys_count":{"signed_curve25519":0},"rooms":{"join":{`)
	for i := range 100 {
		if i > 0 {
			text.WriteString(",")
		}
		fmt.Fprintf(&text, `"!room%d:example.com":{"timeline":{"events":[%s]}}`, i, strings.Repeat(event("@a:hs", "join")+",", 9)+event("@b:hs", "leave"))
	}
	text.WriteString(`}}}`)
	for name, roomsLast := range map[string]bool{"rooms last": true, "all": false} {
		b.Run(name, func(b *testing.B) {
			benchmark(b, strings.Replace(text.String(), `"presence":{`, map[bool]string{true: `"presence":{`, false: `"presents":{`}[roomsLast], 1),
				func() Reader { return NewSyncAnswer(roomsLast, func(string, []byte) {}) })
		})
	}
}
