package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("matrix_presence", parseCaddyfile)
	// Before every directive that may answer a request or choose who does: a
	// site's own "handle" blocks must not lead around it.
	httpcaddyfile.RegisterDirectiveOrder("matrix_presence", httpcaddyfile.Before, "invoke")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	var handler Handler
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return &handler, handler.checkTwoSnapshots(h.State)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	matrix_presence [<matcher>] {
//	    write_limit <events>/<window> [burst <n>] | off
//	    read_limit  <events>/<window> [burst <n>] | off
//	    exempt      <user ID pattern...>
//	    class <name> {
//	        match         <user ID pattern...>
//	        write_limit   <events>/<window> [burst <n>] | off
//	        read_limit    <events>/<window> [burst <n>] | off
//	        sync_limit    <events>/<window> [burst <n>] | off
//	        repeat_writes pass | absorb
//	        over_limit    reject | coalesce
//	    }
//	    mode          enforce | observe
//	    repeat_writes pass | absorb
//	    refresh       <duration>
//	    over_limit    reject | coalesce
//	    coalesce {
//	        pending <n>
//	        max_age <duration>
//	    }
//	    sync_presence pass | limit | strip
//	    sync_limit    <events>/<window> [burst <n>] | off
//	    homeserver    auto | synapse | dendrite | tuwunel
//	    preflight     pass | local
//	    brown_out     on | off
//	    cache off
//	    cache {
//	        name           <name>
//	        off
//	        states         <n>
//	        permissions    <n>
//	        ttl            <duration>
//	        forbidden_ttl  <duration>
//	        stale_if_error <duration>
//	        settle         <duration>
//	        per_viewer
//	    }
//	    learn on | off
//	    learn {
//	        members       <n>
//	        exclude_rooms <room ID...>
//	    }
//	    identity {
//	        tokens         <n>
//	        ttl            <duration>
//	        rejected_ttl   <duration>
//	        rejected_limit <events>/<window> [burst <n>] | off
//	        timeout        <duration>
//	    }
//	    feed <module> {
//	        <options of the module>
//	    }
//	    cluster <module> {
//	        <options of the module>
//	    }
//	    snapshot <file>
//	    max_body <size>
//	    presence_values <value...>
//	}
//
// All of it is optional, and so is the block. A write_limit and a read_limit apply to
// each Matrix user, a rejected_limit to each client address; without a burst as many events may come at once as the window holds. In a user
// ID pattern "*" stands for any run of characters.
//
// A matcher that leaves out some spellings of a presence route is a way around
// the handler, so it is best to give none.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if err := parseNoArg(d, "a block"); err != nil {
		return err
	}
	where := make(map[string]caddyfile.Token) // of the options
	err := parseBlock(d, 0, where, map[string]func() error{
		"write_limit":     func() error { return parseLimit(d, &h.WriteLimit) },
		"read_limit":      func() error { return parseLimit(d, &h.ReadLimit) },
		"exempt":          func() error { return parsePatternList(d, &h.Exempt) },
		"class":           func() error { return h.parseClass(d, where) },
		"mode":            func() error { return parseString(d, &h.Mode) },
		"repeat_writes":   func() error { return parseString(d, &h.RepeatWrites) },
		"refresh":         func() error { return parseDuration(d, &h.Refresh, "a time above 0") },
		"over_limit":      func() error { return parseString(d, &h.OverLimit) },
		"coalesce":        func() error { return h.parseCoalesce(d, where) },
		"sync_presence":   func() error { return parseString(d, &h.SyncPresence) },
		"sync_limit":      func() error { return parseLimit(d, &h.SyncLimit) },
		"homeserver":      func() error { return parseString(d, &h.Homeserver) },
		"preflight":       func() error { return parseString(d, &h.Preflight) },
		"brown_out":       func() error { return parseString(d, &h.BrownOut) },
		"cache":           func() error { return h.parseCache(d) },
		"learn":           func() error { return h.parseLearn(d) },
		"identity":        func() error { return h.parseIdentity(d) },
		"feed":            func() error { return h.parseFeed(d) },
		"cluster":         func() error { return h.parseCluster(d) },
		"snapshot":        func() error { return h.parseSnapshot(d) },
		"max_body":        func() error { return parseSize(d, &h.MaxBody) },
		"presence_values": func() error { return parseList(d, &h.PresenceValues) },
	})
	if err != nil {
		return err
	}
	// What options mean together is known only now, and where they stand no longer
	// when the handler is provisioned.
	_, err = h.settings()
	var about *optionError
	if errors.As(err, &about) {
		for _, option := range about.options {
			if at, ok := where[option]; ok {
				return fmt.Errorf("%w, at %s:%d", err, at.File, at.Line)
			}
		}
	}
	return err
}

// parseClass parses a class, and notes where it stands.
func (h *Handler) parseClass(d *caddyfile.Dispenser, where map[string]caddyfile.Token) error {
	var c Class
	at := d.Token()
	if err := parseString(d, &c.Name); err != nil {
		return err
	}
	block := "class " + c.Name
	if _, ok := where[block]; ok {
		return d.Errf("'%s' is given twice", block)
	}
	where[block] = at
	inside := make(map[string]caddyfile.Token)
	err := parseBlock(d, d.Nesting(), inside, map[string]func() error{
		"match":         func() error { return parsePatternList(d, &c.Match) },
		"write_limit":   func() error { return parseLimit(d, &c.WriteLimit) },
		"read_limit":    func() error { return parseLimit(d, &c.ReadLimit) },
		"sync_limit":    func() error { return parseLimit(d, &c.SyncLimit) },
		"repeat_writes": func() error { return parseString(d, &c.RepeatWrites) },
		"over_limit":    func() error { return parseString(d, &c.OverLimit) },
	})
	noteInside(where, block, inside)
	h.Classes = append(h.Classes, c)
	return err
}

// noteInside notes where the options in a block stand.
func noteInside(where map[string]caddyfile.Token, block string, inside map[string]caddyfile.Token) {
	for name, at := range inside {
		where[optionOf(block, name)] = at
	}
}

func (h *Handler) parseCoalesce(d *caddyfile.Dispenser, where map[string]caddyfile.Token) error {
	c := new(Coalesce)
	h.Coalesce = c
	if err := parseNoArg(d, "a block"); err != nil {
		return err
	}
	inside := make(map[string]caddyfile.Token)
	err := parseBlock(d, d.Nesting(), inside, map[string]func() error{
		"pending": func() error { return parseNumber(d, &c.Pending) },
		"max_age": func() error { return parseDuration(d, &c.MaxAge, "a time above 0") },
	})
	noteInside(where, "coalesce", inside)
	return err
}

// parsePatternList reads user ID patterns.
func parsePatternList(d *caddyfile.Dispenser, dst *[]string) error {
	name := d.Val()
	if err := parseList(d, dst); err != nil {
		return err
	}
	if _, err := parsePatterns(*dst); err != nil {
		return d.Errf("parsing %s: %v", name, err)
	}
	return nil
}

func (h *Handler) parseCache(d *caddyfile.Dispenser) error {
	c := new(Cache)
	h.Cache = c
	if d.NextArg() {
		if d.Val() != "off" {
			return d.Errf("parsing cache: expected 'off' or a block, not '%s'", d.Val())
		}
		c.Off = true
		if err := parseNoArg(d, "nothing more"); err != nil {
			return err
		}
		if d.NextBlock(d.Nesting()) {
			return d.Errf("parsing cache: one that is off has no options: leave out 'off', or '%s' and the block", d.Val())
		}
		return nil
	}
	return parseBlock(d, d.Nesting(), nil, map[string]func() error{
		"name":           func() error { return parseString(d, &c.Name) },
		"off":            func() error { return parseFlag(d, &c.Off) }, // beside a name, which not all sites can do without
		"states":         func() error { return parseNumber(d, &c.States) },
		"permissions":    func() error { return parseNumber(d, &c.Permissions) },
		"ttl":            func() error { return parseDuration(d, &c.TTL, "a time above 0, or cache off") },
		"forbidden_ttl":  func() error { return parseOptionalDuration(d, &c.ForbiddenTTL) },
		"stale_if_error": func() error { return parseDuration(d, &c.StaleIfError, "a time above 0, or leave the option out") },
		"settle":         func() error { return parseOptionalDuration(d, &c.Settle) },
		"per_viewer":     func() error { return parseFlag(d, &c.PerViewer) },
	})
}

func (h *Handler) parseLearn(d *caddyfile.Dispenser) error {
	l := new(Learn)
	h.Learn = l
	if d.NextArg() {
		if d.Val() != "on" && d.Val() != "off" {
			return d.Errf("parsing learn: expected 'on', 'off' or a block, not '%s'", d.Val())
		}
		l.Off = d.Val() == "off"
		if err := parseNoArg(d, "nothing more"); err != nil {
			return err
		}
		if l.Off && d.NextBlock(d.Nesting()) {
			return d.Errf("parsing learn: what is off has no options: leave out 'off', or '%s' and the block", d.Val())
		}
	}
	if l.Off {
		return nil
	}
	return parseBlock(d, d.Nesting(), nil, map[string]func() error{
		"members":       func() error { return parseNumber(d, &l.Members) },
		"exclude_rooms": func() error { return parseList(d, &l.ExcludeRooms) },
	})
}

func (h *Handler) parseIdentity(d *caddyfile.Dispenser) error {
	i := new(Identity)
	h.Identity = i
	if err := parseNoArg(d, "a block"); err != nil {
		return err
	}
	return parseBlock(d, d.Nesting(), nil, map[string]func() error{
		"tokens":         func() error { return parseNumber(d, &i.Tokens) },
		"ttl":            func() error { return parseDuration(d, &i.TTL, "a time above 0") },
		"rejected_ttl":   func() error { return parseOptionalDuration(d, &i.RejectedTTL) },
		"rejected_limit": func() error { return parseLimit(d, &i.RejectedLimit) },
		"timeout":        func() error { return parseDuration(d, &i.Timeout, "a time above 0") },
	})
}

// renamed are the options that once had another name.
var renamed = map[string]string{"sync": "sync_presence"}

// parseBlock parses a block of options, each at most once but a class, by the function
// that reads an option's arguments. It notes where they stand, unless where is nil.
func parseBlock(d *caddyfile.Dispenser, nesting int, where map[string]caddyfile.Token, options map[string]func() error) error {
	seen := make(map[string]bool)
	previous := ""
	for d.NextBlock(nesting) {
		name := d.Val()
		parse, ok := options[name]
		switch {
		case name == "{":
			return d.Errf("'%s' takes no block", previous)
		case !ok && options[renamed[name]] != nil:
			return d.Errf("'%s' is named '%s' now", name, renamed[name])
		case !ok:
			return d.Errf("unrecognized subdirective '%s', expected one of: %s", name,
				strings.Join(slices.Sorted(maps.Keys(options)), ", "))
		case seen[name] && name != "class":
			return d.Errf("'%s' is given twice", name)
		}
		seen[name], previous = true, name
		if where != nil {
			where[name] = d.Token()
		}
		if err := parse(); err != nil {
			return err
		}
	}
	return nil
}

// parseLimit reads "<events>/<window> [burst <n>]" or "off".
func parseLimit(d *caddyfile.Dispenser, dst **Limit) error {
	name, args := d.Val(), d.RemainingArgs()
	limit, err := limitFromArgs(args)
	if err != nil {
		return d.Errf("parsing %s: %v", name, err)
	}
	*dst = limit
	return nil
}

func parseList(d *caddyfile.Dispenser, dst *[]string) error {
	name := d.Val()
	*dst = d.RemainingArgs()
	if len(*dst) == 0 || slices.Contains(*dst, "") {
		return d.Errf("parsing %s: expected one or more values, none of them empty", name)
	}
	return nil
}

// parseNoArg refuses arguments where something else is expected.
func parseNoArg(d *caddyfile.Dispenser, expected string) error {
	name := d.Val()
	if d.NextArg() {
		return d.Errf("parsing %s: expected %s, not '%s'", name, expected, d.Val())
	}
	return nil
}

// parseArg reads the only argument of an option.
func parseArg(d *caddyfile.Dispenser, expected string) (name, arg string, err error) {
	name = d.Val()
	args := d.RemainingArgs()
	switch {
	case len(args) != 1:
		return name, "", d.Errf("parsing %s: expected %s, not %d arguments", name, expected, len(args))
	case args[0] == "":
		return name, "", d.Errf("parsing %s: expected %s, not ''", name, expected)
	}
	return name, args[0], nil
}

func parseString(d *caddyfile.Dispenser, dst *string) (err error) {
	_, *dst, err = parseArg(d, "one name")
	return err
}

func parseFlag(d *caddyfile.Dispenser, dst *bool) error {
	*dst = true
	return parseNoArg(d, "nothing more")
}

func parseNumber(d *caddyfile.Dispenser, dst *int) error {
	const expected = "a whole number of at least 1"
	name, arg, err := parseArg(d, expected)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(arg)
	if err != nil || n < 1 {
		return d.Errf("parsing %s: expected %s, not '%s'", name, expected, arg)
	}
	*dst = n
	return nil
}

func parseSize(d *caddyfile.Dispenser, dst *int64) error {
	const expected = "a size up to 1GiB, such as 64KiB"
	name, arg, err := parseArg(d, expected)
	if err != nil {
		return err
	}
	size, err := humanize.ParseBytes(arg)
	if err != nil || size == 0 || size > 1<<30 {
		return d.Errf("parsing %s: expected %s, not '%s'", name, expected, arg)
	}
	*dst = int64(size)
	return nil
}

// parseDuration reads a duration above 0.
func parseDuration(d *caddyfile.Dispenser, dst *caddy.Duration, expected string) error {
	name := d.Val()
	var parsed *caddy.Duration
	if err := parseOptionalDuration(d, &parsed); err != nil {
		return err
	}
	if *parsed == 0 {
		return d.Errf("parsing %s: expected %s", name, expected)
	}
	*dst = *parsed
	return nil
}

// parseOptionalDuration reads a duration that may be 0, which means something else
// than none given.
func parseOptionalDuration(d *caddyfile.Dispenser, dst **caddy.Duration) error {
	const expected = "a duration, such as 30s or 1m"
	name, arg, err := parseArg(d, expected)
	if err != nil {
		return err
	}
	duration, err := caddy.ParseDuration(arg)
	if err != nil || duration < 0 {
		return d.Errf("parsing %s: expected %s, not '%s'", name, expected, arg)
	}
	parsed := caddy.Duration(duration)
	*dst = &parsed
	return nil
}

// limitFromArgs reads the arguments of a limit: "off", or a rate such as "6/1m",
// perhaps followed by "burst" and a number.
func limitFromArgs(args []string) (*Limit, error) {
	limit := new(Limit)
	switch {
	case len(args) == 1 && args[0] == "off":
		limit.Off = true
		return limit, nil
	case len(args) == 3 && args[0] != "off" && args[1] == "burst":
		burst, err := strconv.Atoi(args[2])
		if err != nil || burst < 1 {
			return nil, fmt.Errorf("burst must be a whole number of at least 1, not '%s'", args[2])
		}
		limit.Burst = burst
	case len(args) != 1:
		return nil, errors.New("expected <events>/<window> [burst <n>], such as 6/1m burst 3, or off")
	}
	events, window, err := policy.ParseRate(args[0], caddy.ParseDuration)
	if err != nil {
		return nil, err
	}
	limit.Events, limit.Window = events, caddy.Duration(window)
	if _, err := limit.limit(); err != nil {
		return nil, err
	}
	return limit, nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
