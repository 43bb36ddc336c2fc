package process

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// OneListener waits until only one socket listens at each of the addresses, or until ctx is
// done or a minute has passed. After a reload Caddy's old server listens beside the new one
// for a moment: the kernel gives a new connection to either, and resets what waits at the old
// one when it closes. Where there is no /proc that says what listens, it waits for nothing.
func OneListener(ctx context.Context, addresses ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, address := range addresses {
		of, err := netip.ParseAddrPort(address)
		if err == nil && !of.Addr().Is4() {
			err = fmt.Errorf("%s is no IPv4 address", address)
		}
		if err != nil {
			return fmt.Errorf("waiting for what listens at an address: %w", err)
		}
		for listeners(of) > 1 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("more than one socket listens at %s: %w", address, ctx.Err())
			}
		}
	}
	return nil
}

// listeners counts the sockets that listen at an IPv4 address. See proc_pid_net(5): a line is
// "0: 0100007F:1F90 00000000:0000 0A …", with the state 0A of one that listens, and an address
// as the machine has it in memory.
func listeners(address netip.AddrPort) (n int) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0
	}
	ip := address.Addr().As4()
	local := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), address.Port())
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" && f[1] == local {
			n++
		}
	}
	return n
}
