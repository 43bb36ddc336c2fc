package contender

import "fmt"

// nginx makes a configuration. Only what stands in http and in the location differs. Keep-alive has no end on either side: a thousand requests, nginx's
// default, pass in a blink here.
func nginx(http, location string) Spec {
	return Spec{Program: Nginx, Config: fmt.Sprintf(`{{if .Root}}user root;
{{end}}worker_processes 2;
pid {{.Dir}}/nginx.pid;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path {{.Dir}}/body;
	proxy_temp_path {{.Dir}}/proxy;
	fastcgi_temp_path {{.Dir}}/fastcgi;
	uwsgi_temp_path {{.Dir}}/uwsgi;
	scgi_temp_path {{.Dir}}/scgi;
	keepalive_requests 1000000000;
	upstream homeserver {
		server {{.Upstream}};
		keepalive 128;
		keepalive_requests 1000000000;
	}
	%s
	server {
		listen {{.Listen}};
		location / {
			%s
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_pass http://homeserver;
		}
	}
}
`, http, location)}
}

// NginxKey is what nginx remembers answers by.
type NginxKey string

// The keys: by token and path, and by path alone, which shows everybody what
// anybody may see.
const (
	ByTokenAndPath NginxKey = "$http_authorization$request_uri"
	ByPath         NginxKey = "$request_uri"
)

// NginxCache keeps answers for ttl in files, in a file system in memory. Its lock for
// those who wait for the same answer is left off, as it is by default: they look
// again every half a second only.
func NginxCache(key NginxKey, ttl string) Spec {
	return nginx(`proxy_cache_path {{.Memory}}/cache levels=1:2 keys_zone=presence:64m max_size=4g inactive=1h use_temp_path=off;`,
		fmt.Sprintf(`proxy_cache presence;
			proxy_cache_key "%s";
			proxy_cache_valid 200 403 %s;
			proxy_ignore_headers Cache-Control Expires;
			add_header X-Cache $upstream_cache_status;`, key, ttl))
}

// NginxLimit refuses all but the first request of a token.
func NginxLimit() Spec {
	return nginx(`limit_req_zone $http_authorization zone=presence:16m rate=1r/m;
	limit_req_status 429;
	limit_req_log_level info;`,
		`limit_req zone=presence;`)
}
