package caddymodule

import "github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"

const (
	k_alice = scripted.Alice
	k_bob   = scripted.Bob
	k_carol = scripted.Carol
)

var (
	k_request    = scripted.Request
	k_statusPath = scripted.StatusPath
	k_bodyOf     = scripted.Body
	k_answer     = scripted.Answer
)
