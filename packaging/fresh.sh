#!/usr/bin/env bash
# Run make targets of the committed HEAD on a Debian root where nothing is installed but apt.
#
# Usage: packaging/fresh.sh [TARGET...]          without targets: demo, then test (the README's two commands)
#        packaging/fresh.sh --root               make the root for later; exit status 69 when nothing can be fetched here
#
# The root is made with debootstrap (its smallest variant, kept in $PODWIRE_CACHE/fresh and unpacked anew each time)
# from the mirror this machine's own apt uses. The run has its own mounts, processes, host name and IPC, and sees
# nothing of this machine but the network; when it ends, however it ends, nothing of it is left.
# KEEP=1 keeps the root for a look.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian-sources.sh"

checkout=$(dirname "$here")
cache=$(realpath -m "${PODWIRE_CACHE:-$checkout/build/cache}")/fresh
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(demo test)

fail() { printf 'fresh: %s\n' "$*" >&2; exit 1; }
unavailable() { printf 'fresh: %s\n' "$*" >&2; exit 69; }

# The second half of this script, already inside: make the root the only file system, then run the commands.
if [ "${1:-}" = --inside ]; then
    root=$2
    shift 2
    mount --bind "$root" "$root"
    cd "$root"
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t tmpfs -o mode=755 tmpfs dev
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"; done
    mknod -m 666 dev/tty c 5 0
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    mount -t tmpfs -o mode=755 tmpfs run
    mkdir run/machine
    pivot_root . run/machine
    umount -l /run/machine
    hostname fresh
    cd /root/podwire
    exec "$@"
fi

[ "$(id -u)" = 0 ] || fail "debootstrap and private mounts need root"
[ "${targets[*]}" != --root ] || "$here/deps.sh" fresh || exit
command -v debootstrap >/dev/null || fail "debootstrap is missing: run packaging/deps.sh fresh"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || fail "another run is using $cache"

codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
suites=$(debian_suites)
mirror=$(awk -v code="$codename" '$2 == code {print $1; exit}' <<<"$suites")
[ -n "$mirror" ] || fail "this machine's apt has no source of Debian $codename"
base=$cache/$codename.tar

if [ ! -s "$base" ]; then
    echo "fresh: making a root of Debian $codename"
    rm -rf "$cache/base"
    debootstrap --variant=minbase "$codename" "$cache/base" "$mirror" >"$cache/debootstrap.log" 2>&1 ||
        { tail -n 20 "$cache/debootstrap.log" >&2; unavailable "debootstrap failed; its log is $cache/debootstrap.log"; }
    rm -rf "$cache"/base/var/cache/apt/archives/*.deb "$cache"/base/var/lib/apt/lists/*
    tar -C "$cache/base" -cf "$base.new" .
    mv "$base.new" "$base"
    rm -rf "$cache/base"
fi

if [ "${targets[*]}" = --root ]; then
    # The root fetches packages in its turn.
    apt-get update -qq -o APT::Update::Error-Mode=any || unavailable "apt reaches no mirror"
    exit
fi

rm -rf "$cache"/root.* # of runs that were killed, or kept for a look
root=$(mktemp -d "$cache/root.XXXXXX")
child=
# Every process of the run is below this one in its process namespace, so they end with it.
end_child() { [ -z "$child" ] || { kill -KILL "$child" && wait "$child"; } 2>/dev/null || true; child=; }
trap 'end_child; [ -n "${KEEP:-}" ] || rm -rf "$root"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
tar -C "$root" -xpf "$base"

# What a new machine here would have: its sources, its way to the network, its certificates.
option=$(debian_keyring_option)
while read -r uri suite; do echo "deb $option $uri $suite main"; done <<<"$suites" >"$root/etc/apt/sources.list"
apt-config dump | grep -E '^Acquire::(https?|ftp)::.*(Proxy|CaInfo)' >"$root/etc/apt/apt.conf.d/90network" || true
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io" # a root that lives for minutes need not survive a power cut
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/"
pass=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "TERM=${TERM:-dumb}")
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY \
    PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT PIP_RETRIES PYTEST_ARGS WORKERS CI; do
    [ -z "${!name:-}" ] || pass+=("$name=${!name}")
done
certificates=${PIP_CERT:-${SSL_CERT_FILE:-}}
if [ -n "$certificates" ]; then
    cp -L "$certificates" "$root/root/certificates.pem"
    pass+=(PIP_CERT=/root/certificates.pem)
fi
if [ -d "${PIP_FIND_LINKS:-}" ]; then
    mkdir "$root/root/wheels"
    cp -a "$PIP_FIND_LINKS/." "$root/root/wheels/"
    pass+=(PIP_FIND_LINKS=/root/wheels)
fi

git -c safe.directory='*' clone -q --no-hardlinks "$checkout" "$root/root/podwire"
[ -z "$(git -C "$checkout" status --porcelain --untracked-files=no)" ] ||
    echo "fresh: the working tree has changes; what is proved is the commit $(git -C "$checkout" rev-parse --short HEAD)"

for path in usr/bin/gcc usr/sbin/nft usr/bin/make usr/bin/python3; do
    [ ! -e "$root/$path" ] || fail "the root is not fresh: it has /$path"
done
[ ! -e "$root/var/lib/dpkg/info/python3-venv.list" ] || fail "the root is not fresh: it has python3-venv"

# In the background with a wait, because a signal interrupts a wait only; and should this script itself be killed
# outright, the kernel kills its child (pdeathsig), and with it the rest.
inside() {
    local status=0
    setpriv --pdeathsig KILL env -i "${pass[@]}" unshare --mount --pid --fork --kill-child --uts --ipc --propagation private -- \
        /bin/bash "$here/fresh.sh" --inside "$root" "$@" 9>&- </dev/null &
    child=$!
    wait "$child" || status=$?
    child=
    return $status
}

failed=0
report=()
run() {
    local began=$SECONDS status=0
    printf '\n=== fresh machine: %s\n' "$*"
    inside "$@" || status=$?
    report+=("$(printf '%-28s %-12s %4d s' "$*" "$([ $status = 0 ] && echo ok || echo "exit $status")" $((SECONDS - began)))")
    [ $status = 0 ] || failed=1
}

run apt-get update -qq
run apt-get install -y -qq -o Dpkg::Use-Pty=0 make
for target in "${targets[@]}"; do run make "$target"; done

printf '\n=== fresh machine, Debian %s, commit %s\n' "$codename" "$(git -C "$root/root/podwire" rev-parse --short HEAD)"
printf '%s\n' "${report[@]}"
exit $failed
