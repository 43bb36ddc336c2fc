package policy

import "net/netip"

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

// ParseClientBlock returns the block of an address, "192.0.2.7" or "2001:db8::7".
// It reports false for what tells no client from another: an address of this host
// or of a private network is a proxy's more often than a client's, and the name
// of a socket is none.
func ParseClientBlock(address string) (ClientBlock, bool) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return ClientBlock{}, false
	}
	addr = addr.Unmap().WithZone("")
	if addr.IsUnspecified() || addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast() {
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
