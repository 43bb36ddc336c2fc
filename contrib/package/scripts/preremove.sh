#!/bin/sh
# Before a removal. dpkg and rpm also call it in an upgrade, by other words.
set -e

case "$1" in
upgrade | failed-upgrade | deconfigure | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl stop caddy-presence.service || :
fi
if command -v systemctl >/dev/null; then
	systemctl --no-reload disable caddy-presence.service >/dev/null 2>&1 || :
fi
if command -v rc-update >/dev/null; then
	rc-service --ifstarted caddy-presence stop || :
	rc-update --quiet delete caddy-presence || :
fi
