#!/bin/sh
# Installs the Debian packages that some tests use, where that is possible without asking: as root, with apt.
# Never fails: without a package its tests are skipped by name. NO_APT=1 leaves the machine alone.
set -u

missing=""
need() { # program, package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH="$PATH:/usr/sbin:/sbin"
need redis-server redis-server
need nbdkit nbdkit
need qemu-nbd qemu-utils
need nbd-server nbd-server
need nbdcopy libnbd-bin
need openssl openssl
need spin spin
need gcc gcc

[ -z "$missing" ] && exit 0
if [ -n "${NO_APT:-}" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "some tests will be skipped; for all of them: apt-get install$missing"
    exit 0
fi

# Debian starts and enables what it installs. The tests run servers of their own, so these stay down: masked while
# they are installed, and disabled afterwards. RUNLEVEL=1 says the same to machines without systemd.
units=""
for package in redis-server nbd-server; do
    case "$missing" in *" $package"*) units="$units $package.service" ;; esac
done
systemd() {
    # shellcheck disable=SC2086 # several units are several words
    [ -z "$units" ] || [ ! -d /run/systemd/system ] || systemctl --quiet "$@" $units >/dev/null 2>&1
}

export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
install() {
    # shellcheck disable=SC2086 # several packages are several words
    timeout 240 apt-get install -qq -y --no-install-recommends $missing </dev/null >/dev/null 2>&1
}
systemd mask --runtime
install || { timeout 120 apt-get update -qq >/dev/null 2>&1 && install; } ||
    echo "could not install$missing; some tests will be skipped"
systemd unmask --runtime
systemd disable
exit 0
