#!/usr/bin/env bash
# schemathesis (PyPI) makes requests of the server's own description, good ones and bad ones, and holds the answers to
# it. The server asks for credentials, as it does by default. `EXAMPLES=1000 tools/schemathesis.sh` makes more requests, and
# `SEED=1` the same each time.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${BINARY:-target/debug/just_storage}
[ -x "$binary" ] || cargo build --locked

scratch=$(mktemp -d)
server=
end() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap end EXIT

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check 'schemathesis==4.32.5'

touch "$scratch/log"
URL_SIGNING_KEY=$(openssl rand -hex 32) "$binary" serve --data-dir "$scratch/data" --listen-addr 127.0.0.1:0 \
    --log-format json 2>"$scratch/log" &
server=$!
address=
for _ in $(seq 100); do
    address=$(sed -n 's/.*"message":"listening on [^"]*","address":"\([^"]*\)".*/\1/p' "$scratch/log" | head -n 1)
    [ -z "$address" ] || break
    sleep 0.1
done
[ -n "$address" ] || { cat "$scratch/log" >&2; exit 1; }

API_KEY=$("$binary" key create --data-dir "$scratch/data" --tenant '*' --scope read,write,delete,admin)
export API_KEY
"$scratch/venv/bin/schemathesis" --config-file tools/schemathesis.toml run "http://$address/openapi.json" \
    --max-examples "${EXAMPLES:-20}" --continue-on-failure --no-color ${SEED:+--seed "$SEED"} "$@"
