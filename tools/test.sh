#!/usr/bin/env bash
# Runs every test. On a fresh Debian 12 with the Rust toolchain it first installs what the tests need.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v curl >/dev/null || missing+=(curl)
command -v openssl >/dev/null || missing+=(openssl)
command -v faketime >/dev/null || missing+=(faketime)
command -v man >/dev/null || missing+=(man-db)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ -x /usr/lib/postgresql/15/bin/initdb ] || missing+=(postgresql-15)
if ((${#missing[@]})); then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" apt-get install -yq --no-install-recommends "${missing[@]}"
fi
tools/install_rclone.sh
cargo nextest --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-nextest --version 0.9.143

# Thousands of descriptors in the connection tests; the limit of a login shell is often 1024.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
exec cargo nextest run --workspace --locked --no-fail-fast "$@"
