package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var presenceBodies = []string{
	`{"presence":"online","last_active_ago":420845,"currently_active":true}`,
	`{"currently_active":false,"last_active_ago":1753700000000,"presence":"","status_msg":""}`,
	`{"status_msg":"\"last_active_ago\":1,\\","last_active_ago":1,"presence":"x"}`,
	`{"x":{"last_active_ago":5,"last_active_ago":6},"last_active\u005fago":1,"presence":"x"}`,
	"{ \"presence\" : \"x\" ,\n\"last_active_ago\"\t:\r9 }\n", `{"presence":"x","last_active_ago":"1"}`,
	`{"presence":"x","last_active_ago":1e0}`, `{"presence":"x","last_active_ago":1,"last_active_ago":2}`,
	"{\"\xff\":1,\"presence\":\"x\"}", `{"presence":"x","preſence":"y"}`, `{"presence":"\ud800"}`, `{"presence":"x",}`, `null`,
}

// FuzzParseAnswer compares what is kept with a reader of tokens: a body is kept
// just if it is an object with one presence, and with no more than one of what ages,
// in a form that can be aged. What it shows is what encoding/json makes of it.
func FuzzParseAnswer(f *testing.F) {
	for _, body := range presenceBodies {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		kept := bytes.Clone(body)
		answer, err := ParseAnswer(body, nil)
		if !bytes.Equal(body, kept) {
			t.Fatalf("%q was changed to %q", kept, body)
		}
		if err != nil && (answer != nil || !errors.Is(err, errNotPresence)) {
			t.Fatalf("%q: %+v, %v", body, answer, err)
		}
		want, why := canBeAged(body)
		if (err == nil) != want {
			t.Fatalf("%q: kept: %v (%v), want %v (%s)", body, err == nil, err, want, why)
		}
		if err == nil && answer.Body != string(body) {
			t.Fatalf("%q was kept as %q", body, answer.Body)
		}
		if !json.Valid(body) {
			return
		}
		if s, _, ok := parseShown("", string(body)); ok {
			var want struct {
				Presence  string `json:"presence"`
				StatusMsg string `json:"status_msg"`
			}
			if err := json.Unmarshal(body, &want); err != nil || s.presence != want.Presence || s.statusMsg != want.StatusMsg {
				t.Fatalf("%q shows %+v, want %+v (%v)", body, s, want, err)
			}
		}
	})
}

var digits = regexp.MustCompile(`^[0-9]+$`)

// canBeAged is the model of ParseAnswer, by encoding/json.
func canBeAged(body []byte) (ok bool, why string) {
	if !json.Valid(body) {
		return false, "no JSON"
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return false, "no object"
	}
	times := make(map[string]int)
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return false, err.Error()
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return false, err.Error()
		}
		times[key.(string)]++
		switch key {
		case "presence":
			ok = value[0] == '"'
		case "currently_active":
			ok = slices.Contains([]string{"true", "false", "null"}, string(value))
		case "last_active_ago":
			ago, err := strconv.ParseInt(string(value), 10, 64)
			ok = digits.Match(value) && err == nil && ago < 1<<62
		default:
			continue
		}
		if !ok || times[key.(string)] > 1 {
			return false, fmt.Sprintf("%s is %s", key, value)
		}
	}
	return times["presence"] == 1, "no presence"
}

// FuzzAppendBody ages bodies: byte for byte the same at once, and later the same
// JSON but for last_active_ago, which is older by just so many milliseconds.
func FuzzAppendBody(f *testing.F) {
	for i, body := range presenceBodies {
		f.Add([]byte(body), int64(i)*1_234_567_891)
	}
	f.Fuzz(func(t *testing.T, body []byte, nanoseconds int64) {
		answer, err := ParseAnswer(body, nil)
		if err != nil {
			return
		}
		if got := answer.AppendBody(nil, 0); !bytes.Equal(got, body) {
			t.Fatalf("%q reads at once as %q", body, got)
		}
		elapsed := time.Duration(max(nanoseconds, -(nanoseconds + 1))) // what is remembered is never of the future
		aged := answer.AppendBody([]byte("before"), elapsed)
		aged, found := bytes.CutPrefix(aged, []byte("before"))
		if !found || answer.Body != string(body) {
			t.Fatalf("%q: the buffer became %q, the answer %q", body, aged, answer.Body)
		}

		before, after := tokensOf(t, body), tokensOf(t, aged)
		if len(before) != len(after) {
			t.Fatalf("%q reads %v later as %q", body, elapsed, aged)
		}
		grown := false
		for i := range before {
			if before[i] == after[i] {
				continue
			}
			// The one that differs is the value after the key, one level down.
			ago, err := strconv.ParseInt(strings.TrimPrefix(before[i], "1:"), 10, 64)
			if grown || err != nil || before[i-1] != "1:\"last_active_ago\"" ||
				after[i] != "1:"+strconv.FormatInt(ago+elapsed.Milliseconds(), 10) {
				t.Fatalf("%q reads %v later as %q: %s became %s", body, elapsed, aged, before[i], after[i])
			}
			grown = true
		}
		var members map[string]json.RawMessage
		_ = json.Unmarshal(body, &members)
		if _, has := members["last_active_ago"]; has && !grown && elapsed >= time.Millisecond {
			t.Fatalf("%q has not aged in %v", body, elapsed)
		}
		// The same bytes, too: what differs is a run of digits,
		head, tail := 0, 0
		for head < len(body) && head < len(aged) && body[head] == aged[head] {
			head++
		}
		for tail < len(body)-head && tail < len(aged)-head && body[len(body)-1-tail] == aged[len(aged)-1-tail] {
			tail++
		}
		if differs := string(body[head:len(body)-tail]) + string(aged[head:len(aged)-tail]); strings.Trim(differs, "0123456789") != "" {
			t.Fatalf("%q reads %v later as %q", body, elapsed, aged)
		}
		// of which there are at most 19 for one.
		if len(aged) > len(body)+18 {
			t.Fatalf("%q grew by %d bytes in %v", body, len(aged)-len(body), elapsed)
		}

		// In two steps it is the same as in one.
		half := elapsed / 2 / time.Millisecond * time.Millisecond
		again, err := ParseAnswer(answer.AppendBody(nil, half), nil)
		if err != nil {
			if answer.ago+half.Milliseconds() < 1<<62 {
				t.Fatalf("%q can't be aged after %v: %v", body, half, err)
			}
			return
		}
		if got := again.AppendBody(nil, elapsed-half); !bytes.Equal(got, aged) {
			t.Fatalf("%q reads %v later as %q, and in two steps as %q", body, elapsed, aged, got)
		}
	})
}

// tokensOf returns the tokens of a text with their depths, keys twice given and all,
// and not a digit lost.
func tokensOf(t *testing.T, body []byte) (tokens []string) {
	t.Helper()
	if !json.Valid(body) {
		t.Fatalf("%q is no JSON", body)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	for depth := 0; ; {
		token, err := dec.Token()
		if err == io.EOF {
			return tokens
		}
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		text := fmt.Sprintf("%v", token)
		switch value := token.(type) {
		case json.Delim:
			if value == '}' || value == ']' {
				depth--
			}
		case string:
			text = strconv.Quote(value)
		}
		tokens = append(tokens, fmt.Sprintf("%d:%s", depth, text))
		if value, ok := token.(json.Delim); ok && (value == '{' || value == '[') {
			depth++
		}
	}
}
