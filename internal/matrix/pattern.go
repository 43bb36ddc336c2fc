package matrix

import (
	"fmt"
	"strings"
)

// UserPattern matches user IDs. A "*" stands for any run of characters, also
// an empty one; every other character stands for itself, by case, as user IDs
// are compared.
type UserPattern struct {
	parts []string // what stands between the stars, at least one
}

// ParseUserPattern reads a pattern like "@bridge_*:example.com". One that could
// never match a user ID is an error.
func ParseUserPattern(s string) (UserPattern, error) {
	parts := strings.Split(s, "*")
	if !strings.HasPrefix(s, "@") && !strings.HasPrefix(s, "*") {
		return UserPattern{}, fmt.Errorf("user ID pattern %q must begin with '@' or '*', as in @bot_*:example.com", s)
	}
	if len(parts) == 1 && !isUserID(s) {
		return UserPattern{}, fmt.Errorf("user ID pattern %q is no user ID: expected @localpart:domain, with '*' for any run of characters", s)
	}
	return UserPattern{parts: parts}, nil
}

// Match reports whether the whole of userID fits the pattern.
func (p UserPattern) Match(userID string) bool {
	first, last := p.parts[0], p.parts[len(p.parts)-1]
	if len(p.parts) == 1 {
		return userID == first
	}
	rest, ok := strings.CutPrefix(userID, first)
	if !ok || !strings.HasSuffix(rest, last) {
		return false
	}
	rest = rest[:len(rest)-len(last)]
	// The leftmost place for each part leaves the most room for the next.
	for _, part := range p.parts[1 : len(p.parts)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return true
}
