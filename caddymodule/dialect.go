package caddymodule

// dialect is what a homeserver makes of a sync's set_presence.
type dialect int

const (
	auto dialect = iota // to be learned, see the option
	synapse
	dendrite
	tuwunel
)

var dialects = map[string]dialect{"": auto, "auto": auto, "synapse": synapse, "dendrite": dendrite, "tuwunel": tuwunel}
