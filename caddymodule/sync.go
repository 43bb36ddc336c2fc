package caddymodule

// syncMode is what becomes of the presence that syncs set.
type syncMode int

const (
	syncPass syncMode = iota
	syncLimit
	syncOff
)

var syncModes = map[string]syncMode{"": syncPass, "pass": syncPass, "limit": syncLimit, "off": syncOff}
