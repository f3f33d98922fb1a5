#!/usr/bin/env bash
# Install the Debian packages that a group of make targets needs, and only those that are missing.
#
# Usage: packaging/deps.sh [--list] GROUP...     groups: build test machine fresh
#
# Returns at once, without touching apt, when everything is there. Package lists are fetched only when apt does
# not know a package yet, or when what it knows has gone stale. With --list it prints names and installs nothing.
set -euo pipefail

build() {
    cat <<TXT
python3                     the interpreter
python3-venv                .venv
$(libpython)                shared interpreter library that travels in the bundle
binutils                    objdump and strip, for PyInstaller
libnftables1                nftables in process
ca-certificates             pip
golang-go                   cnitool
dpkg-dev                    cnitool: unpacks its source package
TXT
}

test() {
    cat <<TXT
nftables                    nft: judges our rules in tests
iptables                    the iptables backend of ipMasq
iproute2                    ip, bridge: judges our links in tests
iputils-ping                ping through what was wired
procps                      sysctl, ps
mount                       private mounts of test nodes
util-linux                  unshare, nsenter
conntrack                   connection tracking entries that DEL must drop
containernetworking-plugins the Go reference plugins, in /usr/lib/cni
TXT
}

machine() {
    cat <<TXT
qemu-system-x86             emulator
cpio                        initramfs
kmod                        module dependencies
busybox-static              the initramfs's shell
TXT
}

fresh() {
    cat <<TXT
debootstrap                 a root where nothing is installed
git                         a clone of what is committed
TXT
}

# The shared library is packaged by interpreter version, and the version is known once there is an interpreter.
libpython() {
    local interpreter=${PYTHON:-/usr/bin/python3}
    if [ -x "$interpreter" ]; then
        "$interpreter" -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])'
    else
        apt-cache depends python3 2>/dev/null | sed -n 's/.*Depends: python\(3\.[0-9]*\)$/libpython\1/p' | head -n 1
    fi
}

wanted() {
    local group
    for group in "$@"; do "$group" | awk '{print $1}'; done | sort -u
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

missing() {
    local name
    wanted "$@" | while read -r name; do installed "$name" || echo "$name"; done
}

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"
}

update() { apt-get update -q -o DPkg::Lock::Timeout=300; }

fail() { printf 'deps: %s\n' "$*" >&2; exit 1; }

list=no
if [ "${1:-}" = --list ]; then list=yes; shift; fi
[ $# -gt 0 ] || fail "which group? one or more of: build test machine fresh"
for group in "$@"; do
    case $group in build|test|machine|fresh) ;; *) fail "no group is called '$group': build test machine fresh" ;; esac
done
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    fail "this is not a Debian system (no dpkg and apt-get); install by hand what $0 names"

[ $list = no ] || { wanted "$@"; exit 0; }

mapfile -t names < <(missing "$@")
[ ${#names[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] || fail "packages are missing and only root can install them; run: apt-get install ${names[*]}"

echo "deps: installing ${names[*]}"
for name in "${names[@]}"; do
    apt-cache show "$name" >/dev/null 2>&1 || { update; break; }
done
# Without an interpreter and without package lists the name of its library was not known before the update.
mapfile -t names < <(missing "$@")
install "${names[@]}" || { echo "deps: trying again with fresh package lists"; update; install "${names[@]}"; }

mapfile -t names < <(missing "$@")
[ ${#names[@]} -eq 0 ] || fail "still missing after the installation: ${names[*]}"
