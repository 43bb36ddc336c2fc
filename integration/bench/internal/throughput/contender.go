package throughput

import (
	"slices"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
)

// Contender is a server and the work it is given.
type Contender struct {
	// Name is what tables and -only call it.
	Name string
	// Group is the part of the table that it is in.
	Group string
	// What says in a few words what is measured.
	What string
	// Server names what is run. Contenders of one name share the server.
	Server string
	// Floor is the contender to compare with, or empty.
	Floor string
	// Work is what is asked, and Warm, unless nil, what is asked once before.
	Work traffic.Workload
	Warm *traffic.Workload
	// Upstream is how many of 1,000 requests have to reach the homeserver. Below 0
	// any number may.
	Upstream int
	// Refused says that all answers have to be refusals: otherwise none may be.
	Refused bool
	// Connections are kept busy, instead of as many as for the others.
	Connections int
	// PerSecond is how many requests are sent in a second, or 0 for as many as the
	// server answers. At full load a latency is mostly waiting for the processor.
	PerSecond int
	// Writes is how many writes a second go on beside the requests.
	Writes int
	// Full contenders take part at the full size only, unless named by -only.
	Full bool
}

// The groups of the table.
const (
	GroupFloors  = "bare Caddy"
	GroupOurs    = "matrix_presence"
	GroupPeers   = "others"
	GroupOptions = "Caddy's options"
)

// anything may reach the homeserver.
const anything = -1

// The standard work: 100 viewers read of 1,000 targets.
var (
	pairs   = traffic.Workload{Targets: 1000, Viewers: 100}
	zipf    = traffic.Workload{Targets: 1000, Viewers: 100, Zipf: true}
	unique  = traffic.Workload{Targets: 100_000, Viewers: 100}
	other   = traffic.Workload{Kind: traffic.Other, Targets: 1000, Viewers: 100, Zipf: true}
	syncs   = traffic.Workload{Kind: traffic.Sync, Targets: 1_000_000, Viewers: 100}
	lists   = traffic.Workload{Kind: traffic.Members, Targets: 1000, Viewers: 100}
	foreign = traffic.Workload{Kind: traffic.Foreign, Targets: 1000, Viewers: 100, Zipf: true}
	mixed   = traffic.Workload{Targets: 1000, Viewers: 100, Zipf: true, Writes: 0.01}
	// some are as many pairs as HTTP/3 can be asked for in time.
	some     = traffic.Workload{Targets: 100, Viewers: 100}
	someZipf = traffic.Workload{Targets: 100, Viewers: 100, Zipf: true}
	// everyone asks once, so that each has used up a limit of one.
	everyone = traffic.Workload{Targets: 1, Viewers: 100}
	// puts are the writes of few users, of whom nobody reads.
	puts = traffic.Workload{Kind: traffic.Write, Targets: 100, First: traffic.User(100_000), Viewers: 1}
	// again are pairs that are read again and again.
	again = traffic.Workload{Targets: 100, Viewers: 10}
	// few are as many pairs as Souin can be filled with in time.
	few = traffic.Workload{Targets: 20, Viewers: 100, Zipf: true}
)

// Contenders are all that there are, each near those it is compared with.
var Contenders = []Contender{
	{Name: "respond", Group: GroupFloors, What: "Caddy's respond, with the body and fields of a hit", Server: "respond", Work: zipf},
	{Name: "hit", Group: GroupOurs, What: "hit, 100,000 pairs in memory, Zipf", Server: "presence", Floor: "respond", Work: zipf, Warm: &pairs},
	{Name: "hit-uniform", Group: GroupOurs, What: "the same, uniform", Server: "presence", Floor: "respond", Work: pairs, Warm: &pairs},
	{Name: "limited", Group: GroupOurs, What: "over the read limit: 429", Server: "presence-limited", Floor: "respond", Work: zipf, Warm: &everyone, Refused: true},
	{Name: "refused", Group: GroupOurs, What: "write to another's presence: 403", Server: "presence", Floor: "respond", Work: foreign, Refused: true},
	{Name: "hit-cluster", Group: GroupOurs, What: "hit at a node of a cluster: a barrier before it", Server: "presence-cluster", Floor: "hit", Work: zipf, Warm: &pairs},
	{Name: "hit-alone", Group: GroupOurs, What: "hit, one connection", Server: "presence", Work: zipf, Warm: &pairs, Connections: 1},
	{Name: "hit-cluster-alone", Group: GroupOurs, What: "the same at a node of a cluster", Server: "presence-cluster", Floor: "hit-alone", Work: zipf, Warm: &pairs, Connections: 1},
	{Name: "put-alone", Group: GroupOurs, What: "write, one connection", Server: "presence", Work: puts, Warm: &puts, Upstream: 1000, Connections: 1},
	{Name: "put-cluster-alone", Group: GroupOurs, What: "the same at a node of a cluster", Server: "presence-cluster", Floor: "put-alone", Work: puts, Warm: &puts, Upstream: 1000, Connections: 1},
	{Name: "node", Group: GroupOurs, What: "1,000 pairs, each read twice a second, ttl 1s, one node", Server: "node", Work: again, Warm: &again, Upstream: anything, PerSecond: 2000},
	{Name: "three-nodes", Group: GroupOurs, What: "the same at any of three nodes", Server: "three-nodes", Floor: "node", Work: again, Warm: &again, Upstream: anything, PerSecond: 2000},
	{Name: "hit-log", Group: GroupOurs, What: "hit, with an access log", Server: "presence-log", Floor: "respond", Work: zipf, Warm: &pairs, Full: true},
	{Name: "hit-metrics", Group: GroupOurs, What: "hit, with metrics of requests", Server: "presence-metrics", Floor: "respond", Work: zipf, Warm: &pairs, Full: true},
	{Name: "hit-writes", Group: GroupOurs, What: "hit, 1,000 writes/s beside it (their CPU time included)", Server: "presence", Floor: "hit", Work: zipf, Warm: &pairs, Writes: 1000},
	{Name: "hit-paced", Group: GroupOurs, What: "hit, 2,000/s: for the latency", Server: "presence", Floor: "hit", Work: zipf, Warm: &pairs, PerSecond: 2000},
	{Name: "respond-paced-writes", Group: GroupFloors, What: "respond, 2,000/s, 1,000 writes/s by reverse_proxy beside it", Server: "respond-writes", Work: zipf, PerSecond: 2000, Writes: 1000},
	{Name: "hit-paced-writes", Group: GroupOurs, What: "hit, 2,000/s, 1,000 writes/s beside it", Server: "presence", Floor: "respond-paced-writes", Work: zipf, Warm: &pairs, PerSecond: 2000, Writes: 1000},

	{Name: "respond-h2", Group: GroupFloors, What: "respond, over HTTP/2 and TLS", Server: "respond-h2", Work: someZipf},
	{Name: "hit-h2", Group: GroupOurs, What: "hit over HTTP/2 and TLS, 10,000 pairs, Zipf", Server: "presence-h2", Floor: "respond-h2", Work: someZipf, Warm: &some},
	{Name: "respond-h3", Group: GroupFloors, What: "respond, over HTTP/3", Server: "respond-h3", Work: someZipf},
	{Name: "hit-h3", Group: GroupOurs, What: "hit over HTTP/3, 10,000 pairs, Zipf", Server: "presence-h3", Floor: "respond-h3", Work: someZipf, Warm: &some},

	{Name: "reverse-proxy", Group: GroupFloors, What: "Caddy's reverse_proxy, presence", Server: "reverse-proxy", Work: unique, Upstream: 1000},
	{Name: "miss", Group: GroupOurs, What: "miss: fetched, stored, forgotten", Server: "presence-expiring", Floor: "reverse-proxy", Work: unique, Upstream: 1000},
	{Name: "uncached", Group: GroupOurs, What: "cache off: limits only", Server: "presence-uncached", Floor: "reverse-proxy", Work: unique, Upstream: 1000, Full: true},
	{Name: "mixed", Group: GroupOurs, What: "99 % reads, 1 % writes", Server: "presence-mixed", Floor: "reverse-proxy", Work: mixed, Warm: &pairs, Upstream: anything},
	{Name: "mixed-unsettled", Group: GroupOurs, What: "the same with settle 0s (Synapse)", Server: "presence-unsettled", Floor: "reverse-proxy", Work: mixed, Warm: &pairs, Upstream: anything, Full: true},
	{Name: "reverse-proxy-other", Group: GroupFloors, What: "Caddy's reverse_proxy, another path", Server: "reverse-proxy", Work: other, Upstream: 1000},
	{Name: "pass-through", Group: GroupOurs, What: "another path, passed through", Server: "presence", Floor: "reverse-proxy-other", Work: other, Upstream: 1000},

	{Name: "reverse-proxy-sync", Group: GroupFloors, What: "Caddy's reverse_proxy, a sync of 16 KiB", Server: "reverse-proxy", Work: syncs, Upstream: 1000},
	{Name: "sync", Group: GroupOurs, What: "the same with learn on, in the first minutes", Server: "presence-learning", Floor: "reverse-proxy-sync", Work: syncs, Warm: &pairs, Upstream: 1000},
	{Name: "reverse-proxy-members", Group: GroupFloors, What: "Caddy's reverse_proxy, a list of 2,600 members", Server: "reverse-proxy", Work: lists, Upstream: 1000},
	{Name: "members", Group: GroupOurs, What: "the same with learn on, of another room each time", Server: "presence-learning", Floor: "reverse-proxy-members", Work: lists, Warm: &pairs, Upstream: 1000},

	{Name: "nginx-cache", Group: GroupPeers, What: "nginx proxy_cache by token and path, Zipf", Server: "nginx-cache", Floor: "hit", Work: zipf, Warm: &pairs},
	{Name: "nginx-cache-uniform", Group: GroupPeers, What: "the same, uniform", Server: "nginx-cache", Floor: "hit-uniform", Work: pairs, Warm: &pairs, Full: true},
	{Name: "varnish", Group: GroupPeers, What: "Varnish by token and path, Zipf", Server: "varnish", Floor: "hit", Work: zipf, Warm: &pairs},
	{Name: "varnish-uniform", Group: GroupPeers, What: "the same, uniform", Server: "varnish", Floor: "hit-uniform", Work: pairs, Warm: &pairs, Full: true},
	{Name: "souin", Group: GroupPeers, What: "Souin's cache-handler by token and path, 2,000 pairs", Server: "souin", Floor: "hit", Work: few, Warm: &few},
	{Name: "nginx-limit", Group: GroupPeers, What: "nginx limit_req: 429", Server: "nginx-limit", Floor: "limited", Work: zipf, Warm: &everyone, Refused: true},
	{Name: "ratelimit", Group: GroupPeers, What: "caddy-ratelimit: 429", Server: "ratelimit", Floor: "limited", Work: zipf, Warm: &everyone, Refused: true},

	{Name: "respond-bare", Group: GroupOptions, What: "respond without the fields", Server: "respond-bare", Floor: "respond", Work: zipf, Full: true},
	{Name: "respond-put", Group: GroupOptions, What: "respond to a PUT", Server: "respond", Floor: "respond", Work: foreign, Full: true},
	{Name: "respond-noidle", Group: GroupOptions, What: "idle timeouts off", Server: "respond-noidle", Floor: "respond", Work: zipf, Full: true},
	{Name: "respond-log", Group: GroupOptions, What: "access log on", Server: "respond-log", Floor: "respond", Work: zipf, Full: true},
	{Name: "respond-metrics", Group: GroupOptions, What: "metrics of requests on", Server: "respond-metrics", Floor: "respond", Work: zipf, Full: true},
	{Name: "respond-gogc400", Group: GroupOptions, What: "GOGC=400", Server: "respond-gogc400", Floor: "respond", Work: zipf, Full: true},
	{Name: "hit-gogc400", Group: GroupOptions, What: "hit, GOGC=400", Server: "presence-gogc400", Floor: "hit", Work: zipf, Warm: &pairs, Full: true},
	{Name: "hit-lean", Group: GroupOptions, What: "hit, idle timeouts off and GOGC=400", Server: "presence-lean", Floor: "hit", Work: zipf, Warm: &pairs, Full: true},
	{Name: "reverse-proxy-idle32", Group: GroupOptions, What: "reverse_proxy with Caddy's 32 idle connections", Server: "reverse-proxy-idle32", Floor: "reverse-proxy", Work: unique, Upstream: 1000, Full: true},
}

// remember are options for our module that keep everything for the time of a run.
func remember(more ...string) string { return contender.Presence(remembering(more...)...) }

func remembering(more ...string) []string {
	return slices.Concat(contender.Unlimited, []string{"cache {\n\t\t\tttl 12h" + joined(more) + "\n\t\t}", "identity {\n\t\t\tttl 12h\n\t\t}"})
}

func joined(options []string) (text string) {
	for _, o := range options {
		text += "\n\t\t\t" + o
	}
	return text
}

const noIdleTimeouts = "servers {\n\t\ttimeouts {\n\t\t\tread_body_idle -1s\n\t\t\twrite_idle -1s\n\t\t}\n\t}"

// caddies are the servers that are Caddy's.
var caddies = map[string]contender.Caddy{
	"respond":              {Site: contender.Respond()},
	"respond-bare":         {Site: "\trespond `{\"presence\":\"unavailable\",\"last_active_ago\":123456,\"status_msg\":\"v0 t1700000000000\"}`"},
	"respond-noidle":       {Site: contender.Respond(), Global: noIdleTimeouts},
	"respond-log":          {Site: contender.Respond(), Log: true},
	"respond-metrics":      {Site: contender.Respond(), Metrics: true},
	"respond-gogc400":      {Site: contender.Respond(), Env: []string{"GOGC=400"}},
	"respond-writes":       {Site: contender.RespondToReads()},
	"respond-h2":           {Site: contender.Respond(), Protocol: protocol.HTTP2},
	"respond-h3":           {Site: contender.Respond(), Protocol: protocol.HTTP3},
	"presence-h2":          {Site: remember(), Protocol: protocol.HTTP2},
	"presence-h3":          {Site: remember(), Protocol: protocol.HTTP3},
	"reverse-proxy":        {Site: contender.ReverseProxy(contender.IdleConnections)},
	"reverse-proxy-idle32": {Site: contender.ReverseProxy(0)},
	"presence":             {Site: remember()},
	"presence-cluster":     {Site: contender.Presence(append(remembering("name bench"), contender.ClusterOf(""))...), Redis: true},
	"node":                 {Site: contender.Spread(1, "ttl 1s"), Redis: true},
	"three-nodes":          {Site: contender.Spread(3, "ttl 1s"), Redis: true},
	"presence-mixed":       {Site: remember()},
	"presence-learning":    {Site: contender.Presence(slices.Concat(contender.Unlimited, []string{"homeserver synapse", "learn on", "identity {\n\t\t\tttl 12h\n\t\t}"})...)},
	"presence-unsettled":   {Site: remember("settle 0s")},
	"presence-log":         {Site: remember(), Log: true},
	"presence-metrics":     {Site: remember(), Metrics: true},
	"presence-gogc400":     {Site: remember(), Env: []string{"GOGC=400"}},
	"presence-lean":        {Site: remember(), Env: []string{"GOGC=400"}, Global: noIdleTimeouts},
	"presence-limited":     {Site: contender.Presence("read_limit 1/24h", "identity {\n\t\t\tttl 12h\n\t\t}")},
	"presence-expiring":    {Site: contender.Presence(slices.Concat(contender.Unlimited, []string{"cache {\n\t\t\tttl 1ms\n\t\t}", "identity {\n\t\t\tttl 12h\n\t\t}"})...)},
	"presence-uncached":    {Site: contender.Presence(slices.Concat(contender.Unlimited, []string{"cache off", "identity {\n\t\t\tttl 12h\n\t\t}"})...)},
	"ratelimit":            {Site: contender.RateLimit(), Program: contender.CaddyPeers},
	"souin":                contender.Souin("12h"),
}

// specs are the servers that are not.
var specs = map[string]contender.Spec{
	"nginx-cache": contender.NginxCache(contender.ByTokenAndPath, "12h"),
	"nginx-limit": contender.NginxLimit(),
	"varnish":     contender.VarnishCache("12h"),
}

// spec returns the server of a name.
func spec(server string) contender.Spec {
	if c, ok := caddies[server]; ok {
		return c.Spec()
	}
	return specs[server]
}
