#!/usr/bin/env bash
# Put the bundle on a node, and take it off again. A runtime may call plugins all the while: each name is replaced in
# one rename, so that it is the old program or the new one at any instant, never none. The agent, where systemd runs it,
# is started anew; calls wait in its socket meanwhile.
#
# Usage: packaging/install.sh install BUNDLE | uninstall
# Settings from the environment: CNI_BIN_DIR (/opt/cni/bin), PREFIX (/opt/podwire), DESTDIR (a root to install into),
# SYSTEMD_DIR (/etc/systemd/system, where there is a systemd): the folder for the agent's units.
#
# What it makes, under DESTDIR:
#   PREFIX/lib/podwire             link to the release in use; the one before it stays for calls that are running
#   PREFIX/bin/podwire             the command
#   PREFIX/cni-bin-dir             the CNI_BIN_DIR that this PREFIX serves; it serves one
#   PREFIX/replaced/NAME           what CNI_BIN_DIR held under a plugin's name; uninstall puts it back
#   CNI_BIN_DIR/NAME               link to the native client, one for each plugin
#   SYSTEMD_DIR/podwire-agent.*    units of the agent; switching them on is up to the administrator
set -euo pipefail
units=$(dirname "$(realpath "$0")")/../conf/systemd
umask 022 # runtimes of any user call the plugins

CLIENT=lib/podwire/shim
UNITS=(podwire-agent.socket podwire-agent.service)

fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

# One spelling for each path. Links on the way stay: they may mean to lead elsewhere tomorrow.
absolute() {
    local path
    case $2 in /*) path=$(realpath -ms -- "$2") ;; *) fail "$1 must be an absolute path, not '$2'" ;; esac
    [ "$path" != / ] || fail "$1 must not be the root folder"
    echo "$path"
}

prefix=$(absolute PREFIX "${PREFIX:-/opt/podwire}")
bin_dir=$(absolute CNI_BIN_DIR "${CNI_BIN_DIR:-/opt/cni/bin}")
destination=${DESTDIR:+$(realpath -ms -- "$DESTDIR")}
[ "$destination" != / ] || destination=
plugins_dir=$destination$bin_dir
home=$destination$prefix

# Where the agent's units go; empty where there is no systemd. Distributions put its own units into one of two folders.
systemd_dir=${SYSTEMD_DIR:-}
if [ -z "$systemd_dir" ] && { [ -d "$destination/usr/lib/systemd/system" ] || [ -d "$destination/lib/systemd/system" ]; }; then
    systemd_dir=/etc/systemd/system
fi
[ -z "$systemd_dir" ] || systemd_dir=$(absolute SYSTEMD_DIR "$systemd_dir")
units_dir=$destination$systemd_dir

# The PREFIX of a podwire that this link leads to, whichever it is; false for anything else.
prefix_of() {
    local text
    [ -L "$1" ] || return 1
    text=$(readlink "$1")
    case $text in /*) ;; *) text=$bin_dir/$text ;; esac
    text=$(realpath -ms -- "$text")
    case $text in
        /*/"$CLIENT") echo "${text%"/$CLIENT"}" ;;
        *) return 1 ;;
    esac
}

# Whether two paths, of the installed system, are one folder.
same() { [ "$1" = "$2" ] || [ "$destination$1" -ef "$destination$2" ]; }

is_ours() {
    local theirs
    theirs=$(prefix_of "$1") && same "$theirs" "$prefix"
}

exists() { [ -e "$1" ] || [ -L "$1" ]; }

# Whether a link leads nowhere, seen from CNI_BIN_DIR in the installed system.
dangles() {
    local text
    [ -L "$1" ] || return 1
    text=$(readlink "$1")
    case $text in /*) text=$destination$text ;; *) text=$plugins_dir/$text ;; esac
    # Where a second link in another root leads cannot be seen from here.
    if [ -z "$destination" ]; then [ ! -e "$text" ]; else ! exists "$text"; fi
}

fresh=
trap '[ -z "$fresh" ] || rm -rf "$fresh"' EXIT

# put_link TARGET NAME: NAME becomes a link to TARGET in one step, whatever it was.
put_link() {
    fresh=$(dirname "$2")/.$(basename "$2").podwire.$$
    ln -s "$1" "$fresh"
    mv -fT "$fresh" "$2"
}

# put_copy SOURCE NAME: NAME becomes a copy of SOURCE in one step; they may lie on different file systems.
put_copy() {
    fresh=$(dirname "$2")/.$(basename "$2").podwire.$$
    cp -a "$1" "$fresh"
    mv -fT "$fresh" "$2"
}

put_text() {
    fresh=$(dirname "$2")/.$(basename "$2").podwire.$$
    printf '%s\n' "$1" >"$fresh"
    mv -fT "$fresh" "$2"
}

# The CNI_BIN_DIR that a PREFIX serves; nothing when it serves none.
served_by() { cat "$destination$1/cni-bin-dir" 2>/dev/null || true; }

# Hold a folder for this script alone until it ends. A folder that was removed while we waited is no lock.
lock() {
    local folder=$1 handle
    while :; do
        [ "$action" = uninstall ] || mkdir -p "$folder"
        [ -d "$folder" ] || return 0 # nothing to take off here
        { exec {handle}<"$folder"; } 2>/dev/null || continue
        flock "$handle"
        [ ! "$folder" -ef "/proc/$$/fd/$handle" ] || return 0
        exec {handle}<&-
    done
}

# One installation or removal at a time, in PREFIX as in CNI_BIN_DIR, and a PREFIX serves one CNI_BIN_DIR only:
# another one's links would be left without a program, and the plugins kept for one be put into the other.
begin() {
    local served
    [ "$plugins_dir" != "$home" ] && [ ! "$plugins_dir" -ef "$home" ] || fail "CNI_BIN_DIR and PREFIX are one folder, $home"
    lock "$home"
    served=$(served_by "$prefix")
    [ -z "$served" ] || same "$served" "$bin_dir" ||
        fail "$prefix serves CNI_BIN_DIR=$served, not $bin_dir: uninstall it there first, or choose another PREFIX"
    lock "$plugins_dir"
}

# Whether a process runs this release: a plugin, an agent, or a client, which may become the program beside it. Files
# are compared, not names: its own name for the file may be another one, by way of a link or in a mount namespace.
in_use() {
    local process
    for process in /proc/[0-9]*/exe; do
        [ ! "$process" -ef "$1/podwire" ] && [ ! "$process" -ef "$1/shim" ] || return 0
    done
    return 1
}

# Whether a systemd is running that reads the folder of our units.
systemd_runs() {
    [ -n "$systemd_dir" ] && [ -z "$destination" ] && [ -d /run/systemd/system ] &&
        [[ " $(systemctl show --property UnitPath --value 2>/dev/null) " == *" $systemd_dir "* ]]
}

# Whether the unit that is installed is this PREFIX's.
our_unit() { [ ! -L "$1" ] && grep -q -x -F "# podwire in $prefix" "$1" 2>/dev/null; }

# The agent's units, with the PREFIX in them. One that the administrator has masked or linked stays as it is.
put_units() {
    local unit
    [ -n "$systemd_dir" ] || return 0
    if [[ $prefix == *[!A-Za-z0-9/._+:~-]* ]]; then
        echo "no units for systemd: PREFIX has characters that would mean something in them"
        return 0
    fi
    mkdir -p "$units_dir"
    for unit in "${UNITS[@]}"; do
        if [ -L "$units_dir/$unit" ]; then
            echo "kept $units_dir/$unit, which is a link"
        else
            put_text "$(printf '# podwire in %s\n\n' "$prefix" && sed "s|@PREFIX@|$prefix|g" "$units/$unit")" "$units_dir/$unit"
        fi
    done
    ! systemd_runs || systemctl daemon-reload
}

# An agent that runs is that of the release before until it is started anew.
restart_agent() { ! systemd_runs || systemctl try-restart "${UNITS[1]}"; }

remove_units() {
    local unit ours=()
    for unit in "${UNITS[@]}"; do
        if our_unit "$units_dir/$unit"; then ours+=("$unit"); fi
    done
    [ ${#ours[@]} -gt 0 ] || return 0
    # Calls that wait in the socket go on without the agent when it is closed; those that run are finished.
    ! systemd_runs || systemctl --quiet disable --now "${ours[@]}" || fail "the agent could not be stopped"
    for unit in "${ours[@]}"; do rm -f "$units_dir/$unit" "$units_dir"/*.wants/"$unit"; done
    ! systemd_runs || systemctl daemon-reload
}

# What stands at NAME of CNI_BIN_DIR, unless it is podwire, goes to PREFIX/replaced. A podwire of another PREFIX hands
# over what it has replaced: the link is ours from now on, and it will not put anything back.
keep_replaced() {
    local name=$1 link=$plugins_dir/$1 theirs kept served
    if theirs=$(prefix_of "$link"); then
        same "$theirs" "$prefix" && return
        kept=$destination$theirs/replaced/$name
        served=$(served_by "$theirs")
        if exists "$kept" && [ -n "$served" ] && same "$served" "$bin_dir"; then
            put_copy "$kept" "$home/replaced/$name"
            rm -f "$kept"
        fi
    elif exists "$link"; then
        put_copy "$link" "$home/replaced/$name"
    fi
}

# Remove our link; what was there before us comes back.
give_back() {
    local name kept
    name=$(basename "$1")
    kept=$home/replaced/$name
    if exists "$kept" && ! dangles "$kept"; then
        put_copy "$kept" "$1"
        rm -f "$kept"
    else
        rm -f "$1"
    fi
}

install_bundle() {
    local bundle release previous name link old plugins problem=
    bundle=$(realpath -- "$1")
    [ -x "$bundle/podwire" ] && [ -x "$bundle/shim" ] || fail "'$bundle' is no bundle: run make bundle first"
    # In a bundle each plugin is a link to the client.
    mapfile -t plugins < <(find "$bundle" -maxdepth 1 -type l -printf '%f\n' | sort)
    [ ${#plugins[@]} -gt 0 ] || fail "'$bundle' has no plugins: run make bundle first"
    for name in "${plugins[@]}"; do
        [ ! -d "$plugins_dir/$name" ] || [ -L "$plugins_dir/$name" ] || fail "$plugins_dir/$name is a folder; move it away"
    done

    begin
    mkdir -p "$home/lib" "$home/bin" "$home/replaced"
    put_text "$bin_dir" "$home/cni-bin-dir"

    previous=$(readlink "$home/lib/podwire" || true)
    release=$(mktemp -d "$home/lib/podwire-$(date -u +%Y%m%dT%H%M%SZ).XXXXXX")
    fresh=$release # removed if we do not get any further
    cp -a --no-preserve=ownership "$bundle/." "$release/" || fail "could not copy the bundle to $release"
    chmod -R u=rwX,go=rX "$release" # whatever the umask of the bundle's maker was
    put_link "$(basename "$release")" "$home/lib/podwire"
    put_link ../lib/podwire/podwire "$home/bin/podwire"

    for name in "${plugins[@]}"; do
        keep_replaced "$name"
        put_link "$prefix/$CLIENT" "$plugins_dir/$name"
    done
    # A plugin that this release no longer has.
    for link in "$plugins_dir"/*; do
        if is_ours "$link" && ! exists "$bundle/$(basename "$link")"; then give_back "$link"; fi
    done

    put_units
    restart_agent || problem="the plugins are installed, but the agent did not start again: systemctl status podwire-agent"
    for old in "$home"/lib/podwire-*; do
        case $(basename "$old") in "$(basename "$release")" | "$previous") continue ;; esac
        in_use "$old" || rm -rf "$old"
    done
    echo "installed ${#plugins[@]} plugins in $plugins_dir and the command $home/bin/podwire"
    if our_unit "$units_dir/${UNITS[1]}" && ! enabled; then
        echo "to have the agent serve calls, several times faster: systemctl enable --now podwire-agent"
    fi
    [ -z "$problem" ] || fail "$problem"
}

# Whether the agent is switched on for the next boot, as far as links tell.
enabled() { compgen -G "$units_dir/*.wants/podwire-agent.*" >/dev/null; }

uninstall() {
    local link left release running=
    begin
    for link in "$plugins_dir"/*; do
        if is_ours "$link"; then give_back "$link"; fi
    done
    remove_units
    rm -f "$home/lib/podwire" "$home/bin/podwire"
    # No new call can start now; those that are running load modules until they end.
    for release in "$home"/lib/podwire-*; do
        [ -d "$release" ] || continue
        for _ in {1..100}; do
            sleep 0.1
            in_use "$release" || break
        done
        if in_use "$release"; then running+=" $release"; else rm -rf "$release"; fi
    done
    [ -z "$running" ] || echo "kept, because a call or an agent is running; uninstall again later:$running"
    left=$(find "$home/replaced" -mindepth 1 2>/dev/null || true)
    if [ -n "$left" ]; then
        printf 'kept, because its name is taken or it is a link that leads nowhere:\n%s\n' "$left"
    fi
    # Only what is empty: the folders may be shared.
    rmdir --ignore-fail-on-non-empty "$home/replaced" "$home/bin" "$home/lib" 2>/dev/null || true
    [ -n "$running" ] || [ -e "$home/replaced" ] || rm -f "$home/cni-bin-dir"
    rmdir --ignore-fail-on-non-empty "$home" 2>/dev/null || true
    echo "uninstalled from $plugins_dir and $home"
}

action=${1:-}
case $action:$# in
    install:2) install_bundle "$2" ;;
    uninstall:1) uninstall ;;
    *) fail "usage: $0 install BUNDLE | uninstall" ;;
esac
