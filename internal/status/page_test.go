package status

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"strings"
	"testing"
	"time"
)

// html returns a view as a page.
func html(t *testing.T, v *View) string {
	t.Helper()
	var b bytes.Buffer
	if err := v.HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The page closes what it opens, and each table has a caption and says what its heads are of.
func TestPageIsWellFormed(t *testing.T) {
	v, _ := shown()
	var refused bytes.Buffer
	if err := Refused(&refused, "<x>", "because", "so"); err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{html(t, v), refused.String()} {
		decoder := xml.NewDecoder(strings.NewReader(strings.Replace(page, " defer", "", 1)))
		decoder.Strict, decoder.AutoClose, decoder.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
		var open []string
		inTable := map[string]int{}
		for {
			token, err := decoder.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch token := token.(type) {
			case xml.StartElement:
				open = append(open, token.Name.Local)
				inTable[token.Name.Local]++
				if token.Name.Local == "th" && (len(token.Attr) == 0 || token.Attr[0].Name.Local != "scope") {
					t.Error("a th has no scope")
				}
			case xml.EndElement:
				if last := open[len(open)-1]; last != token.Name.Local {
					t.Fatalf("</%s> closes <%s>", token.Name.Local, last)
				}
				open = open[:len(open)-1]
			}
		}
		if len(open) != 0 || inTable["table"] != inTable["caption"] {
			t.Errorf("open at the end: %v; %d tables and %d captions", open, inTable["table"], inTable["caption"])
		}
	}
}

// The page's budget, with the files that it needs.
func TestPageIsSmall(t *testing.T) {
	var h History
	for after := time.Duration(0); after <= kept; after += Step {
		c := full("matrix.example.com")
		n := after.Seconds()
		h.Add(at(after, c.with(n*n, "requests_total", "read").with(n*n*float64(int(n)%7), "saved_total").with(n, "upstream_requests_total", "whoami")))
	}
	page := html(t, h.View(nil))
	if all := len(page) + len(Style.Content) + len(Script.Content); all > 64<<10 {
		t.Errorf("%d bytes", all)
	} else {
		t.Logf("%d bytes, the page %d of these", all, len(page))
	}
}

// A user ID and a cache's name are somebody's words.
func TestPageEscapesWhatOthersWrote(t *testing.T) {
	var h History
	h.Add(at(0, cache(`<script>"a"`, 1, 1)))
	v := h.View(map[string][]Limited{`<script>"a"`: {{"read", "@\x1b[31m<img src=x>:hs", 1, 1}}})
	if page := html(t, v); strings.Contains(page, "<img") || strings.Contains(page, "<script>") {
		t.Error("the page has an element of a user's")
	}
	if text := v.Text(); strings.Contains(text, "\x1b") || !strings.Contains(text, "@?[31m<img src=x>:hs") {
		t.Errorf("the text is for a terminal to act upon: %q", text)
	}
}

// The script puts each text where the page has a place for it.
func TestRefreshHasWhatThePageHas(t *testing.T) {
	v, _ := shown()
	page, refresh := html(t, v), v.Refresh()
	for _, test := range []struct {
		attribute string
		n         int
	}{{" data-text>", len(refresh.Texts)}, {" data-cell>", len(refresh.Bad) - 1}, {" data-path ", len(refresh.Paths)}} {
		if got := strings.Count(page, test.attribute); got != test.n || got == 0 {
			t.Errorf("the page has %d of%s, and the refresh %d", got, test.attribute, test.n)
		}
	}
	if text, err := json.Marshal(refresh); err != nil || len(text) > 32<<10 {
		t.Errorf("%d bytes each two seconds, %v", len(text), err)
	}
	if !strings.Contains(page, `data-layout="`+refresh.Layout+`"`) {
		t.Error("the page says another layout")
	}
}

func TestAssetsAreNamedByWhatIsInThem(t *testing.T) {
	page := html(t, new(History).View(nil))
	for _, file := range []Asset{Style, Script} {
		if !strings.Contains(page, `"`+file.Name+`"`) || len(file.Content) == 0 {
			t.Errorf("the page doesn't name %s", file.Name)
		}
	}
	if !strings.Contains(page, "No site has the directive") {
		t.Error("a page without caches says nothing")
	}
}
