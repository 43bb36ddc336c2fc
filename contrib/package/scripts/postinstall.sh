#!/bin/sh
# After an installation or an upgrade, by dpkg, rpm and apk. The service is not started:
# nobody but the admin knows where the homeserver is.
set -e

if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers caddy-presence.conf
elif ! id caddy-presence >/dev/null 2>&1; then
	if command -v useradd >/dev/null; then
		useradd --system --user-group --no-create-home --home-dir /var/lib/caddy-presence \
			--shell /usr/sbin/nologin caddy-presence
	else # Alpine's
		addgroup -S caddy-presence
		adduser -S -D -H -h /var/lib/caddy-presence -s /sbin/nologin -G caddy-presence caddy-presence
	fi
fi

# A service that runs goes on with the new program.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
	systemctl try-restart caddy-presence.service || :
fi
