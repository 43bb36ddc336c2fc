// Package caddymodule is what is Caddy's about caddy-matrix-presence: the HTTP handler
// http.handlers.matrix_presence, its directive matrix_presence, the admin endpoint, a page
// and the commands. What happens to a request is in internal/gateway, which
// doesn't know Caddy.
//
//   - handler.go: the handler with its options, and its life;
//   - config.go, class.go: the options in JSON, and the settings that they stand for;
//   - caddyfile.go: the same in a Caddyfile, and arguments.go: of each kind of option;
//   - feed.go: the guest module by which the homeserver tells of changes;
//   - cluster.go: the guest module by which several nodes are one;
//   - snapshot.go: what is kept over a restart;
//   - running.go: what begins when a configuration has started, and ends with the process;
//   - caddyserver.go: Caddy as a gateway sees it, with requests of our own by Caddy's handlers;
//   - pool.go: what is remembered, which survives a reload, and flushing.go: the writes that
//     wait are delivered when a configuration ends;
//   - plan.go: which handlers of a configuration share what is remembered; site.go: which
//     homeserver each of them fronts, found out by walk.go, which follows a request through
//     the routes of routing.go; fingerprint.go: whether two sites have the same handlers on the way;
//   - sitefields.go: which header fields the handlers of a site look at or set;
//   - collector.go: the metrics for Prometheus; status.go: the same for people;
//   - admin.go: what is at Caddy's admin endpoint; adminusers.go: what concerns a user there;
//   - statuspage.go: the handler http.handlers.presence_status, a page; statuscaddyfile.go: its
//     directive; statusrefusal.go: who may not see it, and which format a client gets;
//     statussampler.go: its history, taken while somebody looks;
//   - command.go: presence-proxy; commandtop.go, commandhealth.go, commanduser.go: presence-top,
//     presence-health, presence-user and presence-purge, which ask a running Caddy by adminclient.go;
//   - commandcheck.go: presence-check, which looks for what is unwise by the rules of check.go in a
//     Caddyfile as checkfile.go reads it;
//   - commandplan.go: presence-plan, which tells what all this would save and cost, by internal/plan: of
//     a configuration, see planconfig.go, and under a load that is described or told by plansource.go.
package caddymodule
