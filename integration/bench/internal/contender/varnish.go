package contender

import "fmt"

// VarnishCache keeps answers by token and path for ttl in memory. Varnish itself
// passes requests with credentials, so the built-in part of vcl_recv is left out.
func VarnishCache(ttl string) Spec {
	return Spec{Program: Varnish, Config: fmt.Sprintf(`vcl 4.1;
backend homeserver {
	.host = "127.0.0.1";
	.port = "{{.UpstreamPort}}";
}
sub vcl_recv {
	if (req.method != "GET" && req.method != "HEAD") {
		return (pass);
	}
	return (hash);
}
sub vcl_hash {
	hash_data(req.url);
	hash_data(req.http.Authorization);
	return (lookup);
}
sub vcl_backend_response {
	set beresp.ttl = %s;
	set beresp.grace = 0s;
	return (deliver);
}
`, ttl)}
}
