# shellcheck shell=bash
# What every script needs set up: packages, cargo tools, configured nginx trees, FTP servers. To be sourced.

# A failure inside $(...) ends the script too.
shopt -s inherit_errexit

# Packages that carry a Rust build of an nginx module (bindgen wants libclang).
BUILD_PACKAGES=(gcc make libc6-dev libclang-dev nginx libnginx-mod-stream nginx-dev)

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Everything made goes below this folder, cargo's output too.
out=$(realpath -m "${CARGO_TARGET_DIR:-$repo/target}")
export CARGO_TARGET_DIR=$out
mkdir -p "$out"
# Neither of them is in everybody's PATH: rustup's programs, Debian's nginx.
export PATH=$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# as_root command...: through sudo only where that is needed and possible.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -- "$@"
    else die "needs root or sudo: $*"
    fi
}

package_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# apt arguments...: its output goes to a log. A failure may mean stale package lists: they are updated for a second try.
apt() {
    "$@" >"$out/apt.log" 2>&1 && return
    as_root apt-get update -qq >&2
    "$@" >"$out/apt.log" 2>&1 || { tail -n 20 "$out/apt.log" >&2; die "failed: $*"; }
}

# need_packages pkg...: installs what is missing; no service of a package is started.
need_packages() {
    local package missing=()
    for package in "$@"; do
        package_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "not root, and no sudo: install ${missing[*]}"
    say "installing ${missing[*]}"
    as_root true
    (
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'as_root rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
            as_root chmod 755 "$policy"
        fi
        apt as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
    )
}

need_cargo() {
    local wanted found
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$repo/Cargo.toml")
    command -v cargo >/dev/null || die "cargo is missing: install Rust $wanted or newer with rustup"
    found=$(rustc --version | cut -d' ' -f2)
    printf '%s\n' "$wanted" "${found%%-*}" | sort -C -V || die "Rust $found is too old: install $wanted or newer with rustup"
}

# need_cargo_tool name version: unoptimised, as compiling it takes longer than all it has to do.
need_cargo_tool() {
    need_cargo
    command -v "$1" >/dev/null || cargo install --target-dir "$out/tools" --locked --debug "$1@$2" >&2
}

# nginx_version tree: as its nginx.h says.
nginx_version() { sed -n 's/^#define NGINX_VERSION *"\(.*\)"/\1/p' "$1/src/core/nginx.h"; }

# configured_copy tree source command...: copies a source to tree and configures it there, unless that was done before.
configured_copy() {
    local tree=$1 source=$2
    shift 2
    [ "$(cat "$tree/configured" 2>/dev/null)" != "$*" ] || return 0
    say "configuring ${tree#"$repo"/}"
    rm -rf "$tree"
    mkdir -p "$tree"
    cp -r "$source/." "$tree"
    if ! (cd "$tree" && "$@") >"$tree/configure.log" 2>&1; then
        tail -n 20 "$tree/configure.log" >&2
        die "nginx did not configure: $tree/configure.log"
    fi
    printf '%s\n' "$*" >"$tree/configured"
}

# nginx_tree_debian: prints the folder of a tree configured like the installed nginx.
nginx_tree_debian() {
    local source=/usr/share/nginx/src package tree
    need_packages "${BUILD_PACKAGES[@]}"
    package=$(dpkg-query -W -f='${Version}' nginx-dev)
    tree=$out/nginx-src/debian-${package//[^0-9a-z.+-]/_}
    # shellcheck disable=SC1091
    . "$source/conf_flags"
    configured_copy "$tree" "$source" \
        ./configure "${NGX_CONF_FLAGS[@]}" --with-stream=dynamic --with-stream_ssl_module
    printf '%s\n' "$tree"
}

# nginx_tree_128 [suffix cc-opt]: prints the folder of nginx 1.28 (static stream), built from the crate nginx-src:
# objs/nginx.
nginx_tree_128() {
    local manifest=$repo/scripts/lib/nginx-src/Cargo.toml host crate tree
    need_cargo
    need_packages gcc make libc6-dev libpcre2-dev libssl-dev zlib1g-dev
    host=$(rustc -vV | sed -n 's/^host: //p')
    crate=$(cargo metadata --quiet --locked --format-version 1 --filter-platform "$host" --manifest-path "$manifest" |
        grep -o '"manifest_path":"[^"]*/nginx-src-[^"]*/Cargo.toml"' | cut -d'"' -f4)
    crate=$(dirname "$crate")
    tree=$out/nginx-src/$(nginx_version "$crate/nginx")${1:-}
    configured_copy "$tree" "$crate/nginx" \
        auto/configure --with-compat --with-debug --with-threads --with-stream --with-stream_ssl_module \
        --with-stream_realip_module --with-stream_ssl_preread_module ${2:+--with-cc-opt="$2"}
    if [ ! -e "$tree/made" ]; then
        say "making ${tree#"$repo"/}"
        make -C "$tree" -j"$(nproc)" >"$tree/make.log" 2>&1 || { tail -n 20 "$tree/make.log" >&2; die "nginx did not build"; }
        touch "$tree/made"
    fi
    printf '%s\n' "$tree"
}

# nginx_tree_valgrind: the same, but with a malloc for each piece of a pool, so that valgrind sees them.
nginx_tree_valgrind() { nginx_tree_128 -valgrind -DNGX_DEBUG_PALLOC=1; }

# peer_server vsftpd|proftpd|pure-ftpd: prints the folder of the unpacked Debian packages: nothing of them is
# installed or started (vsftpd and proftpd conflict); the libraries they need are installed.
peer_server() {
    local packages=("$1") dir=$out/peers/$1 deb libraries
    [ "$1" != proftpd ] || packages=(proftpd-core proftpd-mod-crypto)
    if [ "$(cat "$dir/unpacked" 2>/dev/null)" != "${packages[*]}" ]; then
        rm -rf "$dir"
        mkdir -p "$dir/deb"
        (cd "$dir/deb" && apt apt-get download -o APT::Sandbox::User=root "${packages[@]}")
        for deb in "$dir"/deb/*.deb; do dpkg -x "$deb" "$dir"; done
        printf '%s\n' "${packages[*]}" >"$dir/unpacked"
    fi
    mapfile -t libraries < <(for deb in "$dir"/deb/*.deb; do dpkg-deb -f "$deb" Pre-Depends Depends; done |
        tr ',' '\n' | sed -nE 's/^(Pre-Depends:|Depends:)? *(lib[^ |(:]+).*/\2/p')
    need_packages "${libraries[@]}"
    printf '%s\n' "$dir"
}

need_perl() { need_packages perl libio-socket-ssl-perl openssl; }
# pyftpdlib does TLS with python3-openssl, which it only recommends.
need_clients() { need_perl; need_packages curl lftp tnftp python3 python3-pyftpdlib python3-openssl; }
need_firewall() { need_packages iproute2 nftables iptables; }

# free_ports first last: nobody listens on any of them (on any address).
free_ports() {
    local port busy
    busy=$(awk 'FNR > 1 && $4 == "0A" { sub(/.*:/, "", $2); print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    for ((port = $1; port <= $2; port++)); do
        ! grep -qx "$(printf '%04X' "$port")" <<<"$busy" || return 1
    done
}

# pick_ports count from: prints the first port of a free run of that length.
pick_ports() {
    local first=$2
    until free_ports "$first" $((first + $1 - 1)); do
        first=$((first + $1))
        [ $((first + $1)) -le 65536 ] || die "no $1 free ports in a row"
    done
    printf '%s\n' "$first"
}
