#!/usr/bin/env bash
# Runs the tests of the library and of the real server with AddressSanitizer and LeakSanitizer: `tools/address_sanitizer.sh
# [arguments of nextest]`. The servers that tests start are instrumented as well. Whatever a sanitizer has to say fails the
# run, also where the test that it happened in did not notice.
set -euo pipefail
cd "$(dirname "$0")/.."

# A sanitizer needs no nightly compiler, only one that is let use what nightly is: RUSTC_BOOTSTRAP.
if cargo +nightly --version >/dev/null 2>&1; then
    cargo=(cargo +nightly)
else
    export RUSTC_BOOTSTRAP=1
    cargo=(cargo)
fi
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
# Some tests look at files on the disk of the tree, and some run rclone.
mkdir -p target
tools/install_rclone.sh

# Build scripts and macros are not instrumented: they are built for the host, which is said to be another target.
export RUSTFLAGS='-Zsanitizer=address -Cforce-frame-pointers=yes'
export ASAN_OPTIONS="log_path=$reports/report:detect_stack_use_after_return=1"
export LSAN_OPTIONS="suppressions=$PWD/tools/leaks.supp:print_suppressions=0"
status=0
"${cargo[@]}" nextest run --profile address-sanitizer --locked --no-fail-fast \
    --target "$(rustc -vV | sed -n 's/^host: //p')" \
    --target-dir "${CARGO_TARGET_DIR:-target}/address_sanitizer" --package just_storage --lib --test integration "$@" ||
    status=$?
if compgen -G "$reports/*" >/dev/null; then
    cat "$reports"/*
    echo 'a sanitizer has found something' >&2
    exit 1
fi
exit "$status"
