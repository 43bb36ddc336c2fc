package matrix

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
			pairs = append(pairs, [2]string{unquote(name), unquote(value)})
		}
	}
	return pairs
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

// asTuwunel reads set_presence as a form: "&" alone separates, and a bad escape stands as
// it is. Two of them are refused.
func asTuwunel(rawQuery string) (value string, n int) {
	for part := range strings.SplitSeq(rawQuery, "&") {
		if name, v, _ := strings.Cut(part, "="); part != "" && unquote(name) == "set_presence" {
			value = unquote(v)
			n++
		}
	}
	return value, n
}

// FuzzSetSyncPresence: what is read is what each homeserver reads, the value that
// is set is the one that it takes, and nothing else of the query is another.
func FuzzSetSyncPresence(f *testing.F) {
	for _, query := range []string{
		"", "set_presence=online", "timeout=30000&since=s1_2&set_presence=unavailable&filter=%7B%7D",
		"set_presence=offline&set_presence=online", "set%5Fpresence=%6Fnline", "a=1;set_presence=online",
		"set_presence=online&x;set_presence=offline", "set_presence", "set_presence=", "set_presence=%zz", "set_presence=+online",
		"filter=a;b&timeout=0", "&&", "a&", "since=x;y&since=s&timeout=%30", "set_presence=a;b", "x=ä", "set_presence=%", "set%zzpresence=online",
	} {
		f.Add(query)
	}
	reads := func(d Dialect, rawQuery string) (value string, given, taken bool) {
		switch d {
		case Synapse:
			value, given = firstOf(twistedQuery(rawQuery), "set_presence")
			return value, given, true
		case Dendrite:
			value, given = asGo(rawQuery)
			return value, given, true
		}
		value, n := asTuwunel(rawQuery)
		return value, n > 0, n < 2
	}
	f.Fuzz(func(t *testing.T, rawQuery string) {
		if strings.Count(rawQuery, "&") >= maxParameters {
			return // net/url takes so many parameters and no more
		}
		for _, d := range []Dialect{Synapse, Dendrite, Tuwunel} {
			q := ParseSyncQuery(d, rawQuery)
			value, given, taken := reads(d, rawQuery)
			want := Online
			switch {
			case !taken:
				want = NoPresence
			case given:
				want = d.SyncPresence(value)
			}
			if q.Certain && q.Sets != want {
				t.Fatalf("%q: read as %q, by dialect %d as %q", rawQuery, q.Sets, d, want)
			}
			if all := ParseSyncQuery(UnknownDialect, rawQuery); all.Certain && all.Sets != want {
				t.Fatalf("%q: certain to be %q, by dialect %d read as %q", rawQuery, all.Sets, d, want)
			}
			if !taken || !q.Certain && d != Synapse {
				continue
			}
			wanted := "unavailable"
			set := q.Set(wanted)
			if value, _, taken := reads(d, set); value != wanted || !taken {
				t.Fatalf("%q became %q, which dialect %d reads as %q", rawQuery, set, d, value)
			}
			again := ParseSyncQuery(d, set)
			if again.Certain != (d != Synapse || isASCII(rawQuery)) || again.Certain && again.Sets != Unavailable {
				t.Fatalf("%q became %q, which is read as %q, %v", rawQuery, set, again.Sets, again.Certain)
			}
			if twice := again.Set(wanted); again.Certain && twice != set {
				t.Fatalf("%q became %q and then %q", rawQuery, set, twice)
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
		`{"set_presence":null}`, ``, `{"set_presence":"online","set_presence":"offline"}`, `{"set\u005fpresence":"unavailable"}`, `{"x":{"set_presence":"busy"}}`,
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
		if !ok || again.Sets != Unavailable {
			t.Fatalf("%q became %q, read as %q, %v", body, set, again.Sets, ok)
		}
		if b.given && string(again.Set("busy")) != string(b.Set("busy")) {
			t.Fatalf("%q became %q: more than the value has changed", body, set)
		}
		if !b.given && strings.Replace(strings.Replace(string(set), `"set_presence":"unavailable",`, "", 1), `"set_presence":"unavailable"`, "", 1) != string(body) && len(body) > 0 {
			t.Fatalf("%q became %q: more than the member has been added", body, set)
		}
	})
}
