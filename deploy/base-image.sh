#!/usr/bin/env bash
# Makes a small base image of the Debian that this machine runs, from the mirror that its apt uses, where no registry can
# be reached: debootstrap, then `docker import`. Prints the image's tag. Does nothing where an image of that tag is there.
#
#     deploy/base-image.sh [TAG]            # ticketrail-base:bookworm, say
#
# What was built on this machine runs in it, since both have the same libc. Needs root, debootstrap and a Docker engine.
set -euo pipefail

say() { printf 'base-image: %s\n' "$1" >&2; }

suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
if [ -z "$suite" ]; then
    say "/etc/os-release names no release of Debian or of one that is made from it: build FROM an image of your own instead"
    exit 1
fi
tag=${1:-ticketrail-base:$suite}
if docker image inspect "$tag" >/dev/null 2>&1; then
    printf '%s\n' "$tag"
    exit 0
fi
if ! command -v debootstrap >/dev/null 2>&1; then
    say "debootstrap is missing: apt-get install debootstrap"
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    say "debootstrap makes files of root's: run this as root"
    exit 1
fi

# The first mirror that has the release itself, not its updates.
mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v suite="$suite" '$1 == suite && $2 == "main" { print $3; exit }')
if [ -z "$mirror" ]; then
    say "apt knows of no mirror of $suite: see /etc/apt/sources.list"
    exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf --one-file-system "$folder"' EXIT
say "debootstrap of $suite from $mirror"
if ! debootstrap --variant=minbase "$suite" "$folder/root" "$mirror" >"$folder/log" 2>&1; then
    tail -n 20 "$folder/log" >&2
    say "debootstrap failed"
    exit 1
fi
# As the slim images of Debian: no documentation, no packages, no lists of them.
rm -rf "$folder"/root/var/cache/apt/* "$folder"/root/var/lib/apt/lists/* "$folder"/root/var/log/* \
    "$folder"/root/usr/share/{man,info,locale,lintian}/*
find "$folder/root/usr/share/doc" -type f ! -name copyright -delete
tar -C "$folder/root" --one-file-system -c . | docker import -c 'CMD ["/bin/bash"]' - "$tag" >/dev/null
printf '%s\n' "$tag"
