package matrix

import (
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestUserPatternsMatchTheWholeID(t *testing.T) {
	tests := []struct {
		pattern, userID string
		want            bool
	}{
		{"@bot:hs", "@bot:hs", true},
		{"@bot:hs", "@bot:hs2", false},
		{"@bot:hs", "@Bot:hs", false},
		{"@bot:hs", "x@bot:hs", false},
		{"@bridge_*:hs", "@bridge_a:hs", true},
		{"@bridge_*:hs", "@bridge_:hs", true},
		{"@bridge_*:hs", "@bridge_a:b:hs", true},
		{"@bridge_*:hs", "@bridge:hs", false},
		{"@bridge_*:hs", "@bridge_a:hs.evil", false},
		{"@bridge_*:hs", "evil@bridge_a:hs", false},
		{"*:hs", "@a:hs", true},
		{"*:hs", "@a:hs:8448", false},
		{"@a*", "@a:hs", true},
		{"*", "@a:hs", true},
		{"**", "@a:hs", true},
		{"@*_*_*:hs", "@a_b_c:hs", true},
		{"@*_*_*:hs", "@a_b:hs", false},
		{"@a*a:hs", "@a:hs", false},          // the two ends don't overlap
		{"@a*aa:hs", "@aa:hs", false},        // nor by one character
		{"@*ab*abc:hs", "@xabxabc:hs", true}, // a part may stand further right
		{"@a.c:hs", "@abc:hs", false},
		{"@a/*:hs", "@a/b/c:hs", true},
	}
	for _, tt := range tests {
		p, err := ParseUserPattern(tt.pattern)
		if err != nil {
			t.Errorf("ParseUserPattern(%q): %v", tt.pattern, err)
			continue
		}
		if got := p.Match(tt.userID); got != tt.want {
			t.Errorf("%q matches %q: %v, want %v", tt.pattern, tt.userID, got, tt.want)
		}
	}
}

func TestPatternsThatMatchNoUserIDAreErrors(t *testing.T) {
	for _, pattern := range []string{
		"", "bot", "bot:hs", "bot*", "!room:hs", "@bot", "@", " @bot:hs", "@b\x00t:hs", "@b\xfft:hs", userIDOf(256),
	} {
		_, err := ParseUserPattern(pattern)
		if err == nil {
			t.Errorf("ParseUserPattern(%q) = no error", pattern)
		} else if !strings.Contains(err.Error(), "user ID pattern") {
			t.Errorf("ParseUserPattern(%q) = %v, which does not say what it is about", pattern, err)
		}
	}
}

func TestUserPatternsAgreeWithRegularExpressions(t *testing.T) {
	r := testkit.Rand(t)
	// Few letters, so that much matches and parts overlap.
	word := func(letters string, most int) string {
		var b strings.Builder
		for range r.IntN(most + 1) {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		return b.String()
	}
	for range 20_000 {
		pattern, userID := "@"+word("**ab:", 6)+":", "@"+word("ab:", 8)+":"
		p, err := ParseUserPattern(pattern)
		if err != nil {
			t.Fatalf("ParseUserPattern(%q): %v", pattern, err)
		}
		re := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + "$")
		if got, want := p.Match(userID), re.MatchString(userID); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, userID, got, want)
		}
	}
}
