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

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

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
