#!/usr/bin/env bash
# Runs every fuzz target of fuzz/ for some seconds each: `tools/fuzz.sh [seconds]`, 10 if nothing is said. What the
# environment may say:
#
#   TARGETS="range query"   only these
#   SANITIZER=address       with AddressSanitizer (the nightly toolchain); without it only the store's own checks look
#   KEEP=1                  new inputs go to fuzz/corpus/, to be minimised (`cargo fuzz cmin`) and committed; otherwise
#                           they are dropped
#
# A find is written to fuzz/artifacts/<target>/, and ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
sanitizer=${SANITIZER:-none}
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz --version 0.13.2

# Instrumentation for coverage needs no nightly compiler, only one that is let use what nightly is: RUSTC_BOOTSTRAP.
if cargo +nightly --version >/dev/null 2>&1; then
    cargo=(cargo +nightly)
else
    export RUSTC_BOOTSTRAP=1
    cargo=(cargo)
fi
read -ra targets <<<"${TARGETS:-$("${cargo[@]}" fuzz list | tr '\n' ' ')}"

"${cargo[@]}" fuzz build --sanitizer "$sanitizer" >&2
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

for target in "${targets[@]}"; do
    mkdir -p "$fresh/$target"
    directories=("fuzz/corpus/$target")
    [ -n "${KEEP:-}" ] || directories=("$fresh/$target" "${directories[@]}")
    options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1)
    [ ! -f "fuzz/dictionaries/$target" ] || options+=(-dict="fuzz/dictionaries/$target")
    if ! "${cargo[@]}" fuzz run --sanitizer "$sanitizer" "$target" "${directories[@]}" -- "${options[@]}" \
        >"$fresh/$target.log" 2>&1; then
        cat "$fresh/$target.log" >&2
        echo "fuzz target $target: found something" >&2
        exit 1
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$fresh/$target.log")
    echo "fuzz target $target: $executions executions, nothing found"
done
