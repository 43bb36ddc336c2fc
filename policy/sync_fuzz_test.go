package policy

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// twistedQuery reads a query as Twisted does (twisted/web/http.py, parse_qs with
// keep_blank_values): it splits at ";" too, leaves out what has no "=" and keeps a bad
// escape as it stands.
func twistedQuery(rawQuery string) (pairs [][2]string) {
	for _, part := range strings.FieldsFunc(rawQuery, func(c rune) bool { return c == '&' || c == ';' }) {
		if name, value, ok := strings.Cut(part, "="); ok {
			pairs = append(pairs, [2]string{twistedUnquote(name), twistedUnquote(value)})
		}
	}
	return pairs
}

func twistedUnquote(s string) string {
	s = strings.ReplaceAll(s, "+", " ")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func firstOf(pairs [][2]string, name string) (value string, ok bool) {
	i := slices.IndexFunc(pairs, func(pair [2]string) bool { return pair[0] == name })
	if i < 0 {
		return "", false
	}
	return pairs[i][1], true
}

// asGo reads set_presence as Dendrite does.
func asGo(rawQuery string) (value string, given bool) {
	r := &http.Request{Method: "GET", URL: &url.URL{RawQuery: rawQuery}}
	value = r.FormValue("set_presence")
	return value, r.Form.Has("set_presence")
}

// FuzzSetSyncPresence: what is read is what Synapse and Dendrite read, the value that
// is set is the one that both take, and nothing else of the query is another.
func FuzzSetSyncPresence(f *testing.F) {
	for _, query := range []string{
		"", "set_presence=online", "timeout=30000&since=s1_2&set_presence=unavailable&filter=%7B%7D",
		"set_presence=offline&set_presence=online", "set%5Fpresence=%6Fnline", "a=1;set_presence=online",
		"set_presence=online&x;set_presence=offline", "set_presence", "set_presence=", "set_presence=%zz", "set_presence=+online",
		"filter=a;b&timeout=0", "&&", "a&", "since=x;y&since=s&timeout=%30", "set_presence=a;b", "x=ä", "set_presence=%", "set%zzpresence=online",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, rawQuery string) {
		if strings.Count(rawQuery, "&") > 1000 {
			return // net/url takes so many parameters and no more
		}
		twisted := twistedQuery(rawQuery)
		if q, ok := ParseSyncQuery(rawQuery); ok {
			seen, given := firstOf(twisted, "set_presence")
			if !given {
				seen = "online"
			}
			dendrites, has := asGo(rawQuery)
			if !has {
				dendrites = "online"
			}
			if q.Presence != seen || q.Presence != dendrites {
				t.Fatalf("%q: read as %q, by Synapse as %q, by Dendrite as %q", rawQuery, q.Presence, seen, dendrites)
			}
		}
		for _, wanted := range []string{"offline", "unchanged"} {
			set := SetSyncPresence(rawQuery, wanted)
			now := twistedQuery(set)
			if value, _ := firstOf(now, "set_presence"); value != wanted {
				t.Fatalf("%q became %q, which Synapse reads as %q", rawQuery, set, value)
			}
			if value, _ := asGo(set); value != wanted {
				t.Fatalf("%q became %q, which Dendrite reads as %q", rawQuery, set, value)
			}
			// What stands before and after the value is what stood there.
			q, ok := ParseSyncQuery(set)
			if ok != isASCII(rawQuery) || ok && q.Presence != wanted {
				t.Fatalf("%q became %q, which is read as %q, %v", rawQuery, set, q.Presence, ok)
			}
			if again := SetSyncPresence(set, wanted); ok && again != set {
				t.Fatalf("%q became %q and then %q", rawQuery, set, again)
			}
			other := func(pairs [][2]string, skip bool) (others [][2]string) {
				for _, pair := range pairs {
					if skip && pair[0] == "set_presence" {
						skip = false // only the first counts
						continue
					}
					others = append(others, pair)
				}
				return others
			}
			_, certain := ParseSyncQuery(rawQuery)
			if before, after := other(twisted, certain), other(now, true); !slices.Equal(before, after) {
				t.Fatalf("%q became %q: other parameters %q, were %q", rawQuery, set, after, before)
			}
			// Byte for byte: the pairs of the old query are pairs of the new one.
			was, is := strings.Split(rawQuery, "&"), strings.Split(set, "&")
			changed := 0
			for len(was) > 0 && len(is) > 0 {
				switch {
				case was[0] == is[0]:
					was, is = was[1:], is[1:]
				case len(is) > len(was): // put in
					is = is[1:]
					changed++
				default: // replaced
					was, is = was[1:], is[1:]
					changed++
				}
			}
			if changed+len(is) > 1 || len(was) > 0 {
				t.Fatalf("%q became %q", rawQuery, set)
			}
		}
	})
}

// FuzzSyncBody: the body that is sent says what it should, and everything else of it is
// what it was.
func FuzzSyncBody(f *testing.F) {
	for _, body := range []string{
		`{}`, ` { } `, `{"lists":{}}`, `{"set_presence":"offline","a":[1,2]}`, `{"a":1,"set_presence" : "online" }`, `[]`, `{`,
		`{"set_presence":null}`, `{"set_presence":"online","set_presence":"offline"}`, `{"set\u005fpresence":"unavailable"}`, `{"x":{"set_presence":"busy"}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b, ok := ParseSyncBody(body)
		if !ok {
			return
		}
		set := b.Set("unavailable")
		again, ok := ParseSyncBody(set)
		if !ok || again.Presence != "unavailable" {
			t.Fatalf("%q became %q, read as %q, %v", body, set, again.Presence, ok)
		}
		if b.given && string(again.Set(b.Presence)) != string(b.Set(b.Presence)) {
			t.Fatalf("%q became %q: more than the value has changed", body, set)
		}
		if !b.given && strings.Replace(strings.Replace(string(set), `"set_presence":"unavailable",`, "", 1), `"set_presence":"unavailable"`, "", 1) != string(body) {
			t.Fatalf("%q became %q: more than the member has been added", body, set)
		}
	})
}
