package policy

import "testing"

func TestClientBlockIsWhatOneClientHasToItself(t *testing.T) {
	for _, tc := range []struct{ address, block, network string }{
		{"192.0.2.7", "192.0.2.7/32", ""},
		{"::ffff:192.0.2.7", "192.0.2.7/32", ""},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"2001:db8:1:2::9%eth0", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		// A proxy's more often than a client's.
		{"127.0.0.1", "", ""}, {"::1", "", ""}, {"::ffff:127.0.0.1", "", ""},
		{"10.1.2.3", "", ""}, {"172.17.0.1", "", ""}, {"192.168.1.1", "", ""}, {"fd00::1", "", ""},
		{"169.254.1.1", "", ""}, {"fe80::1%eth0", "", ""}, {"0.0.0.0", "", ""},
		// No address.
		{"", "", ""}, {"@", "", ""}, {"192.0.2.7:80", "", ""},
	} {
		got, ok := ParseClientBlock(tc.address)
		if ok != (tc.block != "") {
			t.Errorf("%q: ok is %t", tc.address, ok)
			continue
		}
		if !ok {
			continue
		}
		if got.Block.String() != tc.block {
			t.Errorf("%q: block %s, want %s", tc.address, got.Block, tc.block)
		}
		if got.Network.IsValid() != (tc.network != "") || tc.network != "" && got.Network.String() != tc.network {
			t.Errorf("%q: network %s, want %q", tc.address, got.Network, tc.network)
		}
	}
}
