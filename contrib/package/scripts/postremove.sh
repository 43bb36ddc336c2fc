#!/bin/sh
# After a removal. "dpkg --purge" also takes away what the service kept (certificates) and
# its user. rpm and apk leave both.
set -e

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
fi
if [ "$1" = purge ]; then
	rm -rf /var/lib/caddy-presence /etc/caddy-presence
	if id caddy-presence >/dev/null 2>&1 && command -v userdel >/dev/null; then
		userdel caddy-presence
	fi
fi
