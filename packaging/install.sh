#!/usr/bin/env bash
# Put the bundle on a node, and take it off again. A runtime may call plugins all the while: each name is replaced in
# one rename, so that it is the old program or the new one at any instant, never none.
#
# Usage: packaging/install.sh install BUNDLE | uninstall
# Settings from the environment: CNI_BIN_DIR (/opt/cni/bin), PREFIX (/opt/podwire), DESTDIR (a root to install into).
#
# What it makes, under DESTDIR:
#   PREFIX/lib/podwire             link to the release in use; the one before it stays for calls that are running
#   PREFIX/bin/podwire             the command
#   PREFIX/replaced/NAME           what CNI_BIN_DIR held under a plugin's name; uninstall puts it back
#   CNI_BIN_DIR/NAME               link to the program, one for each plugin
set -euo pipefail

destination=${DESTDIR:-}
prefix=${PREFIX:-/opt/podwire}
plugins_dir=$destination${CNI_BIN_DIR:-/opt/cni/bin}
home=$destination$prefix
program=$prefix/lib/podwire/podwire

fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

for folder in "$prefix" "${CNI_BIN_DIR:-/opt/cni/bin}"; do
    [ "${folder#/}" != "$folder" ] && [ "$folder" != / ] || fail "PREFIX and CNI_BIN_DIR must be absolute paths, not '$folder'"
done

is_ours() { [ -L "$1" ] && [ "$(readlink "$1")" = "$program" ]; }

fresh=
trap '[ -z "$fresh" ] || rm -f "$fresh"' EXIT

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

in_use() {
    local process
    for process in /proc/[0-9]*/exe; do
        case $(readlink "$process" 2>/dev/null || true) in "$1"/*) return 0 ;; esac
    done
    return 1
}

install_bundle() {
    local bundle=$1 release previous name link old plugins
    [ -x "$bundle/podwire" ] || fail "'$bundle' is no bundle: run make bundle first"
    # In a bundle each plugin is a link to the program.
    mapfile -t plugins < <(find "$bundle" -maxdepth 1 -type l -printf '%f\n' | sort)
    [ ${#plugins[@]} -gt 0 ] || fail "'$bundle' has no plugins: run make bundle first"
    mkdir -p "$home/lib" "$home/bin" "$home/replaced" "$plugins_dir"
    for name in "${plugins[@]}"; do
        [ ! -d "$plugins_dir/$name" ] || [ -L "$plugins_dir/$name" ] || fail "$plugins_dir/$name is a folder; move it away"
    done

    exec 9<"$home/lib"
    flock 9 # another installation would take our half-copied release for an old one

    previous=$(readlink "$home/lib/podwire" || true)
    release=$(mktemp -d "$home/lib/podwire-$(date -u +%Y%m%dT%H%M%SZ).XXXXXX")
    chmod 755 "$release"
    cp -a --no-preserve=ownership "$bundle/." "$release/" || { rm -rf "$release"; fail "could not copy the bundle to $release"; }
    put_link "$(basename "$release")" "$home/lib/podwire"
    put_link ../lib/podwire/podwire "$home/bin/podwire"

    for name in "${plugins[@]}"; do
        link=$plugins_dir/$name
        is_ours "$link" && continue
        if [ -e "$link" ] || [ -L "$link" ]; then put_copy "$link" "$home/replaced/$name"; fi
        put_link "$program" "$link"
    done
    # A plugin that this release no longer has.
    for link in "$plugins_dir"/*; do
        if is_ours "$link" && [ ! -L "$bundle/$(basename "$link")" ]; then give_back "$link"; fi
    done

    for old in "$home"/lib/podwire-*; do
        case $(basename "$old") in "$(basename "$release")" | "$previous") continue ;; esac
        in_use "$old" || rm -rf "$old"
    done
    echo "installed ${#plugins[@]} plugins in $plugins_dir and the command $home/bin/podwire"
}

# Remove our link; what was there before us comes back.
give_back() {
    local kept
    kept=$home/replaced/$(basename "$1")
    if [ -e "$kept" ] || [ -L "$kept" ]; then
        put_copy "$kept" "$1"
        rm -f "$kept"
    else
        rm -f "$1"
    fi
}

uninstall() {
    local link left release
    for link in "$plugins_dir"/*; do
        if is_ours "$link"; then give_back "$link"; fi
    done
    rm -f "$home/lib/podwire" "$home/bin/podwire"
    # No new call can start now; those that are running load modules until they end.
    for release in "$home"/lib/podwire-*; do
        for _ in {1..100}; do
            in_use "$release" || break
            sleep 0.1
        done
        rm -rf "$release"
    done
    left=$(find "$home/replaced" -mindepth 1 2>/dev/null || true)
    if [ -n "$left" ]; then
        printf 'kept, because something else has taken the name since:\n%s\n' "$left"
    fi
    # Only what is empty: the folders may be shared.
    rmdir --ignore-fail-on-non-empty "$home/replaced" "$home/bin" "$home/lib" "$home" 2>/dev/null || true
    echo "uninstalled from $plugins_dir and $home"
}

case ${1:-} in
    install) [ $# = 2 ] || fail "usage: $0 install BUNDLE"; install_bundle "$(realpath "$2")" ;;
    uninstall) uninstall ;;
    *) fail "usage: $0 install BUNDLE | uninstall" ;;
esac
