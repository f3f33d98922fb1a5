#!/usr/bin/env bash
# Install the Debian packages that a group of make targets needs, and only those that are missing.
#
# Usage: packaging/deps.sh [--list] GROUP...     groups: build cnitool test machine fresh
#
# Returns at once, without touching apt, when everything is there. Package lists are fetched only when apt does
# not know a package yet, or when what it knows has gone stale. With --list it prints names and installs nothing.
# Exit status 69: packages are missing, and apt could not install them.
set -euo pipefail

GROUPS_KNOWN="build cnitool test machine fresh"
UNAVAILABLE=69

build() {
    cat <<TXT
python3                     the interpreter
python3-venv                .venv
binutils                    objdump and strip, for PyInstaller
libnftables1                nftables in process
gcc                         the native client
musl-tools                  its C library, static
ca-certificates             pip
TXT
    # shared interpreter library that travels in the bundle
    libpython
}

cnitool() {
    cat <<TXT
golang-go                   compiler
dpkg-dev                    unpacks the source package
ca-certificates             apt, where it fetches sources by https
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
libc6-dev                   the native client with sanitizers, which musl has not
dbus-daemon                 a message bus for what stands in for firewalld
conntrack                   connection tracking entries that DEL must drop
systemd                     runs the agent's units in tests
containernetworking-plugins the Go reference plugins, in /usr/lib/cni
TXT
}

machine() {
    cat <<TXT
qemu-system-x86             emulator
busybox-static              the initramfs's shell
TXT
}

fresh() {
    cat <<TXT
debootstrap                 a root where nothing is installed
git                         a clone of what is committed
TXT
}

# The shared library is packaged by interpreter version. Where there is no interpreter, apt knows which one it would
# install; nothing is printed as long as it has no package lists.
libpython() {
    local interpreter=${PYTHON:-/usr/bin/python3}
    if command -v "$interpreter" >/dev/null; then
        "$interpreter" -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])'
    else
        { apt-cache depends python3 2>/dev/null || true; } | sed -n 's/.*Depends: python\(3\.[0-9]*\)$/libpython\1/p' | head -n 1
    fi
}

wanted() {
    local group
    for group in "$@"; do "$group" | awk '{print $1}'; done | sort -u
}

# A package on hold is installed too, and one of another architecture only is not.
installed() {
    dpkg-query -W -f '${Architecture} ${db:Status-Status}\n' "$1" 2>/dev/null |
        grep -q -x -E "(all|$architecture) installed"
}

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

unavailable() { printf 'deps: %s\n' "$*" >&2; exit $UNAVAILABLE; }

list=no
if [ "${1:-}" = --list ]; then list=yes; shift; fi
[ $# -gt 0 ] || fail "which group? one or more of: $GROUPS_KNOWN"
for group in "$@"; do
    case " $GROUPS_KNOWN " in *" $group "*) ;; *) fail "no group is called '$group': $GROUPS_KNOWN" ;; esac
done
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    fail "this is not a Debian system (no dpkg and apt-get); install by hand what $0 names"
architecture=$(dpkg --print-architecture)
libpython >/dev/null || fail "PYTHON=${PYTHON:-/usr/bin/python3} is no Python interpreter, or does not run"

[ $list = no ] || { wanted "$@"; exit 0; }

mapfile -t names < <(missing "$@")
[ ${#names[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] || fail "packages are missing and only root can install them; run: apt-get install ${names[*]}"

echo "deps: installing ${names[*]}"
for name in "${names[@]}"; do
    apt-cache show "$name" >/dev/null 2>&1 || { update || unavailable "apt-get update failed"; break; }
done
# Without an interpreter and without package lists the name of its library was not known before the update.
mapfile -t names < <(missing "$@")
install "${names[@]}" || {
    echo "deps: trying again with fresh package lists"
    update && install "${names[@]}" || unavailable "apt could not install ${names[*]}"
}

mapfile -t names < <(missing "$@")
[ ${#names[@]} -eq 0 ] || fail "still missing after the installation: ${names[*]}"
