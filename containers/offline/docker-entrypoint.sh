#!/bin/sh
# Give the broker's user what is mounted, as far as it is not read-only, then become the broker, which drops from
# root to that user itself.
set -e
if [ "$(id -u)" = 0 ]; then
    chown -R mosquitto:mosquitto /mosquitto || true
fi
exec "$@"
