package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("presence_status", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		var page StatusPage
		err := page.UnmarshalCaddyfile(h.Dispenser)
		return &page, err
	})
	// After what may ask for a password, and before what else answers.
	httpcaddyfile.RegisterDirectiveOrder("presence_status", httpcaddyfile.Before, "respond")
}

// UnmarshalCaddyfile sets up the page from Caddyfile tokens. Syntax:
//
//	presence_status [<matcher>] {
//	    allow      <address or CIDR range...> | private_ranges
//	    show_users on | off
//	}
//
// Both are optional, and so is the block.
func (s *StatusPage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if err := parseNoArg(d, "a block"); err != nil {
		return err
	}
	return parseBlock(d, 0, nil, map[string]func() error{
		"allow":      func() error { return parseRangeList(d, &s.Allow) },
		"show_users": func() error { return parseSwitch(d, &s.ShowUsers) },
	})
}

// parseRangeList reads addresses, ranges and private_ranges.
func parseRangeList(d *caddyfile.Dispenser, dst *[]string) error {
	name := d.Val()
	if err := parseList(d, dst); err != nil {
		return err
	}
	for _, one := range *dst {
		if err := checkRanges(one); err != nil {
			return d.Errf("parsing %s: %v", name, err)
		}
	}
	return nil
}

// parseSwitch reads "on" or "off".
func parseSwitch(d *caddyfile.Dispenser, dst *bool) error {
	const expected = "'on' or 'off'"
	name, arg, err := parseArg(d, expected)
	if err != nil {
		return err
	}
	if arg != "on" && arg != "off" {
		return d.Errf("parsing %s: expected %s, not '%s'", name, expected, arg)
	}
	*dst = arg == "on"
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*StatusPage)(nil)
