package policy

import (
	"net/netip"
	"slices"
)

// ClientBlock names the block of addresses that a client has to itself, as far as
// an address tells, and the network that it is part of:
//
//   - IPv4: the address; there is no network that says more.
//   - IPv6: the /64, in which a client may choose its address as it likes, and the
//     /48, the most that a site is given as a rule (RFC 6177).
type ClientBlock struct {
	Block   netip.Prefix
	Network netip.Prefix // invalid for IPv4
}

// sharedPrefixes are blocks that tell no client from another, besides those that
// netip.Addr names itself. None of them is reachable over the internet (IANA's
// special-purpose address registries). The blocks for documentation are not among them:
// nobody comes from there.
var sharedPrefixes = mustPrefixes(
	"0.0.0.0/8",      // this network (RFC 791)
	"100.64.0.0/10",  // between a provider and its NAT (RFC 6598); overlay networks use it too
	"192.0.0.0/24",   // protocol assignments, such as DS-Lite's (RFC 6890)
	"198.18.0.0/15",  // benchmarks (RFC 2544)
	"240.0.0.0/4",    // reserved, and broadcast (RFC 1112)
	"64:ff9b:1::/48", // translators of a network's own (RFC 8215)
	"100::/64",       // discarded (RFC 6666)
	"fec0::/10",      // site-local, deprecated (RFC 3879)
)

// embedded are prefixes of IPv6 addresses that stand for an IPv4 address, and at which
// byte that begins.
var embedded = []struct {
	prefix netip.Prefix
	at     int
	flip   byte // of each byte
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12, 0},    // NAT64, SIIT (RFC 6052)
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12, 0}, // SIIT's older one (RFC 2765)
	{netip.MustParsePrefix("::/96"), 12, 0},           // IPv4-compatible, deprecated (RFC 4291)
	{netip.MustParsePrefix("2002::/16"), 2, 0},        // 6to4 (RFC 3056)
	{netip.MustParsePrefix("2001::/32"), 12, 0xff},    // Teredo (RFC 4380)
}

func mustPrefixes(prefixes ...string) (parsed []netip.Prefix) {
	for _, prefix := range prefixes {
		parsed = append(parsed, netip.MustParsePrefix(prefix))
	}
	return parsed
}

// ParseClientBlock returns the block of an address, "192.0.2.7" or "2001:db8::7".
// It reports false for what tells no client from another: an address of this host
// or of a private network is a proxy's more often than a client's, and the name
// of a socket is none.
func ParseClientBlock(address string) (ClientBlock, bool) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return ClientBlock{}, false
	}
	addr = unmap(addr.WithZone(""))
	if addr.IsUnspecified() || addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast() || addr.IsMulticast() ||
		slices.ContainsFunc(sharedPrefixes, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return ClientBlock{}, false
	}
	if addr.Is4() {
		return ClientBlock{Block: netip.PrefixFrom(addr, 32)}, true
	}
	return ClientBlock{
		Block:   netip.PrefixFrom(addr, 64).Masked(),
		Network: netip.PrefixFrom(addr, 48).Masked(),
	}, true
}

// unmap returns the IPv4 address that an address stands for, or itself. Behind a
// translator all of IPv4 is one /64, in which one client would speak for all.
func unmap(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	if addr.Is4() || addr.IsUnspecified() || addr.IsLoopback() {
		return addr
	}
	for _, e := range embedded {
		if e.prefix.Contains(addr) {
			bytes := addr.As16()
			ipv4 := [4]byte(bytes[e.at : e.at+4])
			for i := range ipv4 {
				ipv4[i] ^= e.flip
			}
			return netip.AddrFrom4(ipv4)
		}
	}
	return addr
}
