#!/bin/sh
# Install the Debian packages named that are missing; without root or apt, name them and fail.
set -eu
missing=""
for name in "$@"; do
    state=$(dpkg-query -W -f '${Status}' "$name" 2>/dev/null || true)
    [ "$state" = "install ok installed" ] || missing="$missing $name"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing" >&2
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "missing:$missing. Install with: sudo apt-get install$missing" >&2
    exit 7
fi
