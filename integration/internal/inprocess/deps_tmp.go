//go:build never

package inprocess

import (
	_ "github.com/anishathalye/porcupine"
	_ "go.uber.org/goleak"
	_ "pgregory.net/rapid"
)
