#!/bin/sh
# Lays out the image's files: scripts/image-rootfs.sh PROGRAM DIRECTORY
#   DIRECTORY/rootfs  what belongs to root and is never written: program, CA certificates, passwd, group, nsswitch, SBOM
#   DIRECTORY/owned   what the image's user owns: the empty directories for state, audit and sockets
# The Dockerfile and scripts/image.sh both use it, so that both images are the same.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 PROGRAM DIRECTORY" >&2
    exit 2
fi
program=$1
root=$2/rootfs
owned=$2/owned

# An ELF program with an interpreter needs a loader that the image does not have.
if readelf -lW "$program" | grep -q INTERP; then
    echo "$program is not static; build it with RUSTFLAGS='-C target-feature=+crt-static' and --target x86_64-unknown-linux-gnu" >&2
    exit 1
fi
certificates=${CA_CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}
if [ ! -s "$certificates" ]; then
    echo "no CA certificates at $certificates; install ca-certificates or set CA_CERTIFICATES" >&2
    exit 1
fi

umask 022
mkdir -p "$root/etc/ssl/certs" "$root/etc/tokenward" "$owned/var/lib/tokenward" "$owned/var/log/tokenward" "$owned/run/tokenward"
chmod 0700 "$owned/var/lib/tokenward" "$owned/var/log/tokenward"
# Symbols stay, so that a backtrace has names; line tables go, which is four fifths of the file.
strip --strip-debug -o "$root/tokenward" "$program"
chmod 0755 "$root/tokenward"
cp -L "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"
chmod 0644 "$root/etc/ssl/certs/ca-certificates.crt"
echo 'tokenward:x:65532:65532:tokenward:/var/lib/tokenward:/nonexistent' >"$root/etc/passwd"
echo 'tokenward:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
# What the program is made of (CycloneDX).
mkdir -p "$root/usr/share/doc/tokenward"
(cd "$(dirname "$0")/.." && python3 scripts/sbom.py) >"$root/usr/share/doc/tokenward/sbom.cdx.json"
