#!/usr/bin/env bash
# Build the official cnitool from Debian's source package of libcni.
#
# Usage: packaging/cnitool.sh TARGET          e.g. build/tools/cnitool
#
# Debian ships libcni's code but not its command, so the source package is fetched. That needs `deb-src` entries,
# which a machine seldom has: a private apt configuration gets them, derived from the machine's own sources, and
# the machine's files stay as they are. Downloads stay in $PODWIRE_CACHE/cnitool and are not made twice.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian-sources.sh"

SOURCE=golang-github-appc-cni
IMPORT=github.com/containernetworking/cni
GO=/usr/lib/go/bin/go

fail() { printf 'cnitool: %s\n' "$*" >&2; exit 1; }

target=$(realpath -m "${1:?usage: $0 TARGET}")
cache=$(realpath -m "${PODWIRE_CACHE:-build/cache}")/cnitool
[ -x $GO ] || fail "$GO is missing: install the package golang-go (make deps)"
mkdir -p "$cache" "$(dirname "$target")"
exec 9>"$cache/lock"
flock 9

# The machine's settings (proxies, credentials) without its hooks, and with sources and state of our own.
private_apt() {
    local apt=$cache/apt option
    rm -rf "$apt"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/none"
    option=$(debian_keyring_option)
    debian_suites | while read -r uri suite; do echo "deb-src $option $uri $suite main"; done >"$apt/sources.list"
    [ -s "$apt/sources.list" ] || fail "apt has no source of Debian's main component here, so there is no source code to fetch"
    apt-config dump | grep -v -E '^(DPkg::|APT::Update::|APT::Sandbox|Dir::Etc::(main|parts|source)|Dir::State::lists|Dir::Cache)' \
        >"$apt/apt.conf"
    cat >>"$apt/apt.conf" <<TXT
Dir::Etc::main "/dev/null";
Dir::Etc::parts "$apt/none";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/none";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt";
APT::Sandbox::User "root";
TXT
}

fetch() {
    private_apt
    (
        export APT_CONFIG=$cache/apt/apt.conf
        cd "$cache/apt"
        apt-get update -qq
        apt-get source -qq --download-only "$SOURCE"
    )
    # The description last: where it is, the rest is too, whatever interrupts this.
    mv "$cache/apt/${SOURCE}"_*.tar.* "$cache"
    mv "$cache/apt/${SOURCE}"_*.dsc "$cache"
    rm -rf "$cache/apt"
}

dsc=$(find "$cache" -maxdepth 1 -name "${SOURCE}_*.dsc" | sort -V | tail -n 1)
if [ -z "$dsc" ]; then
    fetch
    dsc=$(find "$cache" -maxdepth 1 -name "${SOURCE}_*.dsc" | sort -V | tail -n 1)
fi
[ -n "$dsc" ] || fail "apt fetched no source package $SOURCE into $cache"

# Debian's Go builds without modules when the code lies where GOPATH expects it; libcni and its command need no
# other package.
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src/$(dirname $IMPORT)"
dpkg-source --no-check -x "$dsc" "$work/src/$IMPORT" >/dev/null
(
    cd "$work/src/$IMPORT"
    export GO111MODULE=off GOPATH="$work" GOCACHE="$cache/go" GOFLAGS=-trimpath CGO_ENABLED=0
    $GO build -ldflags '-s -w' -o "$target.new" ./cnitool
)
mv -f "$target.new" "$target"
echo "cnitool: built $target from $(basename "$dsc" .dsc)"
