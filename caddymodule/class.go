package caddymodule

import (
	"fmt"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// Class gives the users that match budgets and modes of their own. What is not
// given is as for everybody.
type Class struct {
	// Name is for people; each class has another one.
	Name string `json:"name"`

	// Match lists the users as user ID patterns: "@bridge_*:example.com", where "*"
	// stands for any run of characters. The homeserver must reserve names like these,
	// such as by an appservice's exclusive namespace: otherwise anybody can register one.
	Match []string `json:"match"`

	// WriteLimit is as the handler's.
	WriteLimit *Limit `json:"write_limit,omitempty"`

	// ReadLimit is as the handler's.
	ReadLimit *Limit `json:"read_limit,omitempty"`

	// SyncLimit is as the handler's.
	SyncLimit *Limit `json:"sync_limit,omitempty"`

	// RepeatWrites is as the handler's.
	RepeatWrites string `json:"repeat_writes,omitempty"`

	// OverLimit is as the handler's.
	OverLimit string `json:"over_limit,omitempty"`
}

var (
	repeatWords    = map[string]bool{"pass": false, "absorb": true}
	overLimitWords = map[string]bool{"reject": false, "coalesce": true}
)

// setClasses sets what applies to whom.
func setClasses(s *gateway.Settings, h *Handler) error {
	everybody := s.Everybody
	err := setClass(s, everybody, &Class{
		WriteLimit: h.WriteLimit, ReadLimit: h.ReadLimit, SyncLimit: h.SyncLimit,
		RepeatWrites: h.RepeatWrites, OverLimit: h.OverLimit,
	}, "")
	if err != nil {
		return err
	}
	if s.Exempt, err = parsePatterns(h.Exempt); err != nil {
		return blame("exempt", "checking exempt: %w", err)
	}

	names := make(map[string]bool)
	for _, given := range h.Classes {
		option := "class " + given.Name
		c := *everybody
		switch c.Match, err = parsePatterns(given.Match); {
		case err != nil:
			return blame(option, "checking class %s: %w", given.Name, err)
		case given.Name == "":
			return blame(option, "checking class: each needs a name")
		case names[given.Name]:
			return blame(option, "checking class %s: there are two of that name", given.Name)
		case len(c.Match) == 0:
			return blame(option, "checking class %s: it needs a match, such as match @bridge_*:example.com", given.Name)
		}
		names[given.Name] = true
		if err := setClass(s, &c, &given, option); err != nil {
			return err
		}
		s.Classes = append(s.Classes, &c)
	}
	s.Complete()
	return checkUse(s, h)
}

func parsePatterns(patterns []string) (parsed []matrix.UserPattern, err error) {
	for _, pattern := range patterns {
		p, err := matrix.ParseUserPattern(pattern)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

// setClass sets what is given of a class, and checks whether it goes together. The
// block is the class as it stands in a Caddyfile, or empty for everybody.
func setClass(s *gateway.Settings, c *gateway.Class, given *Class, block string) error {
	of := func(name string) string { return optionOf(block, name) }
	if err := setLimits(c, given, of); err != nil {
		return err
	}
	for _, w := range []struct {
		name, given string
		words       map[string]bool
		dst         *bool
	}{
		{"repeat_writes", given.RepeatWrites, repeatWords, &c.Absorb},
		{"over_limit", given.OverLimit, overLimitWords, &c.Coalesce},
	} {
		if w.given == "" {
			continue
		}
		if err := setWord(of(w.name), w.dst, w.given, w.words); err != nil {
			return err
		}
	}

	switch {
	case given.OverLimit == "coalesce" && c.WriteLimit == nil:
		return blame(of("over_limit"), "checking %s: there is nothing to coalesce with write_limit off", of("over_limit"))
	case given.SyncLimit != nil && s.SyncPresence != gateway.SyncLimit:
		return blame(of("sync_limit"), "checking %s: it needs sync_presence limit", of("sync_limit"))
	case c.WriteLimit == nil:
		c.Coalesce = false // there is nothing to go over
		return nil
	}
	return checkInterval(s, c, of)
}

// setLimits sets the budgets that are given of a class. Of an option's name, of tells where it stands.
func setLimits(c *gateway.Class, given *Class, of func(name string) string) error {
	for _, l := range []struct {
		name  string
		given *Limit
		dst   **policy.Limit
	}{
		{"write_limit", given.WriteLimit, &c.WriteLimit},
		{"read_limit", given.ReadLimit, &c.ReadLimit},
		{"sync_limit", given.SyncLimit, &c.SyncLimit},
	} {
		if l.given == nil {
			continue
		}
		limit, err := l.given.limit()
		if err != nil {
			return blame(of(l.name), "checking %s: %w", of(l.name), err)
		}
		*l.dst = limit
	}
	return nil
}

// checkInterval checks that a class's budget for writes is large enough for what is done about
// them. The budget or what it is too small for may be the default, or everybody's.
func checkInterval(s *gateway.Settings, c *gateway.Class, of func(name string) string) error {
	interval := c.WriteLimit.Interval()
	switch {
	case c.Absorb && interval > s.Refresh:
		hint := ""
		if interval <= gateway.MaxRefresh {
			hint = fmt.Sprintf(", or set refresh to %v", interval)
		}
		return blameFirst([]string{of("write_limit"), of("refresh"), of("repeat_writes")},
			"checking %s: it refills one write in %v, but with repeat_writes absorb a repeat goes to the homeserver each refresh of %v, so that it doesn't take the user for offline: allow at least one write in %[3]v%s",
			of("write_limit"), interval, s.Refresh, hint)
	case c.Coalesce && interval > s.Coalesce.MaxAge:
		return blameFirst([]string{of("write_limit"), optionOf("coalesce", "max_age"), of("over_limit")},
			"checking %s: it refills one write in %v, but with over_limit coalesce no write may wait for longer than max_age, %v: allow at least one write in %[3]v, or set max_age to %[2]v in a coalesce block",
			of("write_limit"), interval, s.Coalesce.MaxAge)
	}
	return nil
}

// checkUse refuses options that nothing makes use of: they are meant to do something.
func checkUse(s *gateway.Settings, h *Handler) error {
	switch {
	case h.Refresh != 0 && !s.Absorbs && s.SyncPresence != gateway.SyncLimit:
		return blame("refresh", "checking refresh: it needs repeat_writes absorb or sync_presence limit")
	case h.Coalesce != nil && !s.Coalesces:
		return blame("coalesce", "checking coalesce: it needs over_limit coalesce")
	}
	return nil
}
