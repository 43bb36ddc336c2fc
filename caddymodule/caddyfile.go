package caddymodule

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
