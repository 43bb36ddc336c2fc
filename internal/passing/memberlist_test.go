package passing

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// listOf reads an answer in pieces of these sizes, over and over.
func listOf(chunk bool, answer string, pieces ...int) (joined []string, whole bool) {
	set := make(map[string]bool)
	create := NewJoinedMembers
	if chunk {
		create = NewMembers
	}
	list := create(func(userID []byte) { set[string(userID)] = true })
	for i := 0; len(answer) > 0; i++ {
		n := len(answer)
		if len(pieces) > 0 {
			n = min(n, max(1, pieces[i%len(pieces)]))
		}
		list.Write([]byte(answer[:n]))
		answer = answer[n:]
	}
	return slices.Sorted(maps.Keys(set)), list.Whole()
}

// event is an event of a member list, with its fields in the order in which Synapse has them.
func event(userID, membership string) string {
	return fmt.Sprintf(`{"type":"m.room.member","room_id":"!r:hs","sender":%q,"content":{"avatar_url":null,"displayname":"a \"{[ \\","membership":%q},`+
		`"state_key":%q,"event_id":"$1","unsigned":{"age":1,"prev_content":{"membership":"leave"}}}`, userID, membership, userID)
}

func TestMemberListsNameWhoIsJoined(t *testing.T) {
	for name, tt := range map[string]struct {
		chunk  bool
		answer string
		joined []string
		odd    bool
	}{
		"joined":             {answer: `{"joined":{"@a:hs":{"display_name":"x","avatar_url":null},"@b:hs":{}}}`, joined: []string{"@a:hs", "@b:hs"}},
		"with more":          {answer: ` { "x" : [1, {"joined":{"@c:hs":{}}}] , "joined" : { "@a:hs" : { } } , "y" : 1.5e3 } `, joined: []string{"@a:hs"}},
		"escaped":            {answer: `{"\u006aoined":{"@\u00e4\/:hs":{}}}`, joined: []string{"@ä/:hs"}},
		"empty":              {answer: `{"joined":{}}`},
		"joined twice":       {answer: `{"joined":{"@a:hs":{}},"joined":{"@b:hs":{}}}`, odd: true},
		"a list":             {answer: `{"joined":["@a:hs"]}`, odd: true},
		"a string":           {answer: `{"joined":"@a:hs"}`, odd: true},
		"none":               {answer: `{"errcode":"M_UNKNOWN"}`, odd: true},
		"broken off":         {answer: `{"joined":{"@a:hs":{}}`, odd: true},
		"more after the end": {answer: `{"joined":{"@a:hs":{}}}{`, odd: true},
		"no object":          {answer: `[{"joined":{"@a:hs":{}}}]`, odd: true},
		"no key":             {answer: `{joined:{"@a:hs":{}}}`, odd: true},
		"no Unicode":         {answer: "{\"joined\":{\"@\xff:hs\":{}}}", odd: true},
		"a bad escape":       {answer: `{"joined":{"@\x:hs":{}}}`, odd: true},
		"a long key":         {answer: `{"joined":{"@` + strings.Repeat("a", maxKey) + `:hs":{}}}`, odd: true},
		"deep":               {answer: `{"x":` + strings.Repeat("[", maxNested+1) + strings.Repeat("]", maxNested+1) + `,"joined":{}}`, odd: true},
		"the other list":     {answer: `{"chunk":[` + event("@a:hs", "join") + `]}`, odd: true},

		"events": {chunk: true, answer: `{"chunk":[` + event("@a:hs", "join") + `,` + event("@b:hs", "leave") + `,` +
			event("@c:hs", "invite") + `,` + event("@d:hs", "join") + `]}`, joined: []string{"@a:hs", "@d:hs"}},
		"no events":        {chunk: true, answer: `{"chunk":[]}`},
		"another event":    {chunk: true, answer: `{"chunk":[{"type":"m.room.name","state_key":"@a:hs","content":{"membership":"join"}}]}`},
		"no state key":     {chunk: true, answer: `{"chunk":[{"type":"m.room.member","sender":"@a:hs","content":{"membership":"join"}}]}`},
		"no content":       {chunk: true, answer: `{"chunk":[{"type":"m.room.member","state_key":"@a:hs"}]}`},
		"its content":      {chunk: true, answer: `{"chunk":[{"type":"m.room.member","state_key":"@a:hs","membership":"join","content":{"x":{"membership":"join"}}}]}`},
		"type twice":       {chunk: true, answer: `{"chunk":[{"type":"x","type":"m.room.member","state_key":"@a:hs","content":{"membership":"join"}}]}`, odd: true},
		"membership twice": {chunk: true, answer: `{"chunk":[{"type":"m.room.member","state_key":"@a:hs","content":{"membership":"leave","membership":"join"}}]}`, odd: true},
		"contents twice":   {chunk: true, answer: `{"chunk":[{"type":"m.room.member","state_key":"@a:hs","content":{"membership":"join"},"content":{}}]}`, odd: true},
		"a number":         {chunk: true, answer: `{"chunk":[{"type":"m.room.member","state_key":1,"content":{"membership":"join"}}]}`, odd: true},
		"an object":        {chunk: true, answer: `{"chunk":{"@a:hs":{}}}`, odd: true},
		"words":            {chunk: true, answer: `{"chunk":["m.room.member"]}`, odd: true},
		"a long state key": {chunk: true, answer: `{"chunk":[{"type":"m.room.member","content":{"membership":"join"},"state_key":"` + strings.Repeat("a", maxTaken) + `"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pieces := range [][]int{nil, {1}, {3, 1, 7}} {
				joined, whole := listOf(tt.chunk, tt.answer, pieces...)
				if whole == tt.odd {
					t.Errorf("in pieces of %v it is whole: %v", pieces, whole)
				}
				if !tt.odd && !slices.Equal(joined, tt.joined) {
					t.Errorf("in pieces of %v: %q, want %q", pieces, joined, tt.joined)
				}
			}
		})
	}
}

// joinedByJSON is what encoding/json makes of a member list.
func joinedByJSON(chunk bool, answer []byte) (joined []string) {
	set := make(map[string]bool)
	var object map[string]json.RawMessage
	_ = json.Unmarshal(answer, &object)
	if !chunk {
		var list map[string]json.RawMessage
		_ = json.Unmarshal(object["joined"], &list)
		return slices.Sorted(maps.Keys(list))
	}
	var events []map[string]json.RawMessage
	_ = json.Unmarshal(object["chunk"], &events)
	for _, event := range events {
		var content map[string]json.RawMessage
		var kind, membership string
		var userID *string
		_ = json.Unmarshal(event["content"], &content)
		_ = json.Unmarshal(event["type"], &kind)
		_ = json.Unmarshal(event["state_key"], &userID)
		_ = json.Unmarshal(content["membership"], &membership)
		if kind == "m.room.member" && membership == "join" && userID != nil {
			set[*userID] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// FuzzMemberList holds what is read of whole lists against encoding/json, in whatever pieces.
func FuzzMemberList(f *testing.F) {
	f.Add(false, []byte(`{"joined":{"@a:hs":{"display_name":"x"},"@\u00e4:hs":{}}}`), uint64(1))
	f.Add(true, []byte(`{"chunk":[`+event("@a:hs", "join")+`,`+event("@b:hs", "ban")+`]}`), uint64(2))
	f.Add(true, []byte(`{"start":"a","end":-1.5e3,"chunk":[],"x":{"a":[[]]}}`), uint64(3))
	f.Fuzz(func(t *testing.T, chunk bool, answer []byte, seed uint64) {
		if len(answer) > maxTaken {
			return
		}
		random := rand.New(rand.NewPCG(seed, 1))
		joined, whole := listOf(chunk, string(answer))
		again, wholeAgain := listOf(chunk, string(answer), 1+random.IntN(20), 1+random.IntN(5), 1+random.IntN(50))
		if whole != wholeAgain || whole && !slices.Equal(joined, again) {
			t.Fatalf("at once: %v %q, in pieces: %v %q", whole, joined, wholeAgain, again)
		}
		if !whole || !json.Valid(answer) {
			return
		}
		if want := joinedByJSON(chunk, answer); !slices.Equal(joined, want) {
			t.Fatalf("%q, encoding/json says %q", joined, want)
		}
	})
}

func BenchmarkMembers(b *testing.B) {
	var text strings.Builder
	text.WriteString(`{"chunk":[`)
	for i := range 2600 {
		if i > 0 {
			text.WriteString(",")
		}
		text.WriteString(event(fmt.Sprintf("@user%d:example.com", i), "join"))
	}
	text.WriteString(`]}`)
	benchmark(b, text.String(), func() Reader { return NewMembers(func([]byte) {}) })
}

func benchmark(b *testing.B, answer string, create func() Reader) {
	bytes := []byte(answer)
	b.SetBytes(int64(len(bytes)))
	b.ReportAllocs()
	for b.Loop() {
		reader := create()
		for rest := bytes; len(rest) > 0; {
			n := min(len(rest), 32<<10)
			if !reader.Write(rest[:n]) {
				break
			}
			rest = rest[n:]
		}
	}
}
