#!/bin/sh
# Give the broker's user what is mounted, then become the broker, which drops from root to that user itself.
set -e
if [ "$(id -u)" = 0 ]; then
    chown -R mosquitto:mosquitto /mosquitto
fi
exec "$@"
