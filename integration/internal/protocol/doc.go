// Package protocol is the axis of tests and benchmarks that asks whether all is the same over
// every protocol that Caddy serves. A URL names its protocol by its scheme:
//
//	http://127.0.0.1:8080   HTTP/1.1
//	h2://127.0.0.1:8080     HTTP/2 over TLS
//	h2c://127.0.0.1:8080    HTTP/2 without
//	h3://127.0.0.1:8080     HTTP/3
//
// [Register] teaches these schemes to http.DefaultClient, so that a test has to know
// nothing but the URL that it is given:
//
//   - protocol.go: which protocols there are, and what a Caddyfile says for each;
//   - client.go: the clients;
//   - certificate.go: the certificate of the sites over TLS, which the clients trust;
//   - websocket.go: a WebSocket over each of them.
package protocol
