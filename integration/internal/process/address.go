package process

import (
	"errors"
	"fmt"
	"net"
)

// FreeAddresses returns n loopback addresses that nobody listens on. All are
// held at once while they are picked, so that they differ.
func FreeAddresses(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("picking a port: %w", err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// Retry calls start again with new ports for as long as it lost the last ones
// to somebody else, three times at most.
func Retry[T any](start func() (T, error)) (T, error) {
	var result T
	var err error
	for range 3 {
		if result, err = start(); !errors.Is(err, ErrAddressInUse) {
			break
		}
	}
	return result, err
}
