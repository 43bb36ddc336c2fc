package cache

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestAnswersAge(t *testing.T) {
	tests := []struct{ name, body, aged string }{ // by 1234 ms and a bit
		{"Synapse", `{"presence":"online","last_active_ago":420845,"currently_active":true}`,
			`{"presence":"online","last_active_ago":422079,"currently_active":true}`},
		{"Dendrite", `{"currently_active":false,"last_active_ago":0,"presence":"","status_msg":""}`,
			`{"currently_active":false,"last_active_ago":1234,"presence":"","status_msg":""}`},
		{"tuwunel", `{"presence":"online","currently_active":true}`, `{"presence":"online","currently_active":true}`},
		{"more digits", `{"last_active_ago":99000,"presence":"x"}`, `{"last_active_ago":100234,"presence":"x"}`},
		{"at the end", `{"presence":"x","last_active_ago":1}`, `{"presence":"x","last_active_ago":1235}`},
		{"space around it", "\n{ \"last_active_ago\" :\t7 , \"presence\" : \"x\" }\r\n", "\n{ \"last_active_ago\" :\t1241 , \"presence\" : \"x\" }\r\n"},
		{"escaped key", `{"last_active\u005fago":1,"presence":"x"}`, `{"last_active\u005fago":1235,"presence":"x"}`},
		{"status message with the text", `{"status_msg":"\"last_active_ago\":1,","last_active_ago":1,"presence":"last_active_ago"}`,
			`{"status_msg":"\"last_active_ago\":1,","last_active_ago":1235,"presence":"last_active_ago"}`},
		{"status message with the text behind it", `{"last_active_ago":1,"presence":"x","status_msg":"\\\",\"last_active_ago\":1"}`,
			`{"last_active_ago":1235,"presence":"x","status_msg":"\\\",\"last_active_ago\":1"}`},
		{"only in a status message", `{"presence":"x","status_msg":"{\"last_active_ago\":1}"}`, `{"presence":"x","status_msg":"{\"last_active_ago\":1}"}`},
		{"further down", `{"x":{"last_active_ago":5},"last_active_ago":1,"presence":"x","y":[{"last_active_ago":5}]}`,
			`{"x":{"last_active_ago":5},"last_active_ago":1235,"presence":"x","y":[{"last_active_ago":5}]}`},
		{"only further down", `{"presence":"x","content":{"last_active_ago":5}}`, `{"presence":"x","content":{"last_active_ago":5}}`},
		{"key by another case", `{"Last_Active_Ago":5,"presence":"x"}`, `{"Last_Active_Ago":5,"presence":"x"}`},
		{"milliseconds since 1970", `{"last_active_ago":1753700000000,"presence":""}`, `{"last_active_ago":1753700001234,"presence":""}`},
		{"other numbers keep their form", `{"x":1.50e+3,"y":-0,"last_active_ago":10,"presence":"x"}`, `{"x":1.50e+3,"y":-0,"last_active_ago":1244,"presence":"x"}`},
		{"not UTF-8", "{\"status_msg\":\"\xff\",\"last_active_ago\":1,\"presence\":\"x\"}", "{\"status_msg\":\"\xff\",\"last_active_ago\":1235,\"presence\":\"x\"}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer := parse(t, tt.body)
			if got := answer.AppendBody(nil, 0); string(got) != tt.body {
				t.Errorf("at once it is %s, want %s", got, tt.body)
			}
			if got := answer.AppendBody([]byte("before"), 1234*time.Millisecond+999_999); string(got) != "before"+tt.aged {
				t.Errorf("aged it is %s, want before%s", got, tt.aged)
			}
			if answer.Body != tt.body {
				t.Errorf("the answer changed to %s", answer.Body)
			}
		})
	}
}

func TestBodiesThatCannotBeAgedForSureAreErrors(t *testing.T) {
	for _, body := range []string{
		``, ` `, `null`, `true`, `"presence"`, `[]`, `[{"presence":"x"}]`, `{}`, `{"status_msg":"x"}`, `{"x":{"presence":"x"}}`,
		`{"presence":"x"`, `{"presence":"x",}`, `{"presence":"x"}}`, `{"presence":"x"} x`, `{"presence":"x"}{"presence":"x"}`,
		`{"presence":"x" "y":1}`, `{"presence"}`, `{presence:"x"}`, `{"presence":"x"]`, `<html></html>`, "\ufeff" + `{"presence":"x"}`,
		`{"presence":1}`, `{"presence":{}}`, `{"presence":["x"]}`, `{"presence":true}`,
		`{"presence":"x","last_active_ago":1,"last_active_ago":1}`, `{"presence":"x","last_active_ago":1,"last_active\u005fago":1}`,
		`{"presence":"x","currently_active":true,"currently_active":false}`,
		`{"presence":"x","last_active_ago":-1}`, `{"presence":"x","last_active_ago":1.5}`, `{"presence":"x","last_active_ago":1.0}`,
		`{"presence":"x","last_active_ago":1e3}`, `{"presence":"x","last_active_ago":"1"}`, `{"presence":"x","last_active_ago":"\u0031"}`,
		`{"presence":"x","last_active_ago":null}`, `{"presence":"x","last_active_ago":[1]}`, `{"presence":"x","last_active_ago":{}}`,
		`{"presence":"x","last_active_ago":true}`, `{"presence":"x","last_active_ago":01}`, `{"presence":"x","last_active_ago":9223372036854775807}`,
		`{"presence":"x","last_active_ago":99999999999999999999}`, `{"presence":"x","last_active_ago":}`,
		`{"presence":"x","currently_active":1}`, `{"presence":"x","currently_active":"true"}`,
	} {
		if answer, err := ParseAnswer([]byte(body), nil); !errors.Is(err, errNotPresence) || answer != nil {
			t.Errorf("ParseAnswer(%s) = %+v, %v, want an error that it is no presence", body, answer, err)
		}
	}
}

// A minus zero is a legal way to write 0. Either it is refused, or it stays as it is.
func TestAMinusZeroIsNotRewritten(t *testing.T) {
	const body = `{"presence":"x","last_active_ago":-0}`
	if answer, err := ParseAnswer([]byte(body), nil); err == nil {
		if got := answer.AppendBody(nil, 0); string(got) != body {
			t.Errorf("at once it is %s, want %s", got, body)
		}
	}
}

func TestAnAnswerDoesNotAliasItsBody(t *testing.T) {
	body := []byte(`{"presence":"x","last_active_ago":12}`)
	answer, err := ParseAnswer(body, nil)
	if err != nil {
		t.Fatal(err)
	}
	clear(body)
	if got := answer.AppendBody(nil, 0); string(got) != `{"presence":"x","last_active_ago":12}` {
		t.Errorf("after its buffer was used again it is %q", got)
	}
}

func TestAnAnswerIsTrueUntilCurrentlyActiveFlips(t *testing.T) {
	const ever = time.Duration(math.MaxInt64)
	for _, tt := range []struct {
		body string
		want time.Duration
	}{
		{`{"presence":"online","currently_active":true,"last_active_ago":0}`, time.Minute},
		{`{"presence":"online","currently_active":true,"last_active_ago":45000}`, 15 * time.Second},
		{`{"presence":"online","last_active_ago":59999,"currently_active":true}`, time.Millisecond},
		{`{"presence":"online","currently_active":true,"last_active_ago":60000}`, 4 * time.Minute}, // Dendrite's
		{`{"presence":"offline","currently_active":true,"last_active_ago":299999}`, time.Millisecond},
		{`{"presence":"online","currently_active":true,"last_active_ago":300000}`, 0},
		{`{"presence":"online","currently_active":true,"last_active_ago":1753700000000}`, 0},
		{`{"presence":"online","currently_active":true,"last_active_ago":4611686018427387903}`, 0},
		{`{"presence":"online","currently_active":false,"last_active_ago":0}`, ever},
		{`{"presence":"online","currently_active":null,"last_active_ago":0}`, ever},
		{`{"presence":"online","last_active_ago":0}`, ever},
		{`{"presence":"online","currently_active":true}`, ever}, // tuwunel
	} {
		if got := parse(t, tt.body).truthful(); got != tt.want {
			t.Errorf("%s is true for %v, want %v", tt.body, got, tt.want)
		}
	}
}

func TestAgeingIsExactForAnyAge(t *testing.T) {
	law := func(ago uint32, elapsed uint32, message string) bool {
		quoted, err := json.Marshal(message)
		if err != nil {
			return false
		}
		body := func(ago int64) string {
			number, _ := json.Marshal(ago)
			return `{"status_msg":` + string(quoted) + `,"last_active_ago":` + string(number) + `,"presence":"online"}`
		}
		answer, err := ParseAnswer([]byte(body(int64(ago))), nil)
		if err != nil {
			return false
		}
		aged := answer.AppendBody(nil, time.Duration(elapsed)*time.Millisecond)
		return string(aged) == body(int64(ago)+int64(elapsed))
	}
	if err := quick.Check(law, nil); err != nil {
		t.Error(err)
	}
}

func BenchmarkParseAnswer(b *testing.B) {
	body := []byte(`{"presence":"online","last_active_ago":420845,"status_msg":"at work","currently_active":true}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseAnswer(body, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendBody(b *testing.B) {
	answer := parse(b, `{"presence":"online","last_active_ago":420845,"status_msg":"at work","currently_active":true}`)
	var buffer [512]byte
	b.ReportAllocs()
	for b.Loop() {
		answer.AppendBody(buffer[:0], 1234*time.Millisecond)
	}
}

// A homeserver, or a proxy that echoes what clients send, decides what is in the
// fields. Without a bound on them there would be none on a table.
func TestAnswerWithLargeFieldsIsNotKept(t *testing.T) {
	p := NewPresence(100, 100, testkit.Epoch)
	rules := &Rules{TTL: time.Minute, ForbiddenTTL: time.Minute}
	fields := []Field{{Name: "Access-Control-Allow-Origin", Values: []string{strings.Repeat("x", maxFields)}}}
	answer, err := ParseAnswer([]byte(`{"presence":"online"}`), fields)
	if err != nil {
		t.Fatal(err)
	}
	ticket := p.Lookup("@bob:a", "@alice:a", rules, testkit.Epoch).Ticket
	if p.Allow("@bob:a", ticket, answer, rules, testkit.Epoch) {
		t.Error("an answer was stored")
	}
	if p.Deny("@carol:a", ticket, &Denial{Status: 403, Body: "{}", Fields: fields}, rules) {
		t.Error("a refusal was stored")
	}
	if found := p.Lookup("@bob:a", "@alice:a", rules, testkit.Epoch); found.Outcome != Uncached {
		t.Errorf("the next lookup finds %v, want a mark that there is no use in collecting it", found.Outcome)
	}
}
