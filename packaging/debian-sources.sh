# shellcheck shell=bash
# Where this machine gets Debian from: sourced by the scripts beside it, so that no mirror is written down.

# Print "URI SUITE" for each Debian suite of this machine's release that apt is set up for, e.g.
# "<mirror>/debian/ bookworm-updates". apt itself reads its sources, so both of their forms count, and a source of
# another vendor does not. The release itself comes before its updates.
debian_suites() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:?this is not a Debian release}")
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v code="$codename" '$3 == "main" && ($2 == code || index($2, code "-") == 1) {print $1, $2}' |
        sort -u -k 2,2 -k 1,1
}

# Print the apt option, with its brackets, that names Debian's keyring where it is installed.
debian_keyring_option() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    if [ -e $keyring ]; then echo "[signed-by=$keyring]"; fi
}
