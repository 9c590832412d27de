#!/usr/bin/env bash
# Uploads through clients of tus as they come, tuspy (PyPI) and tus-js-client (npm): `tools/tus_clients.sh [PROGRAM]`. They
# are killed, the server is killed with kill -9 in the middle of uploads, and every object is compared in the end. Needs
# python3, node and npm; what it downloads and stores goes to a directory of its own and is removed.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${1:-target/debug/just_storage}")
here=$(realpath tools/tus_clients)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

tuspy=1.1.0
tus_js_client=4.3.1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "tuspy==$tuspy"
(cd "$work" && npm install --silent --no-audit --no-fund "tus-js-client@$tus_js_client")

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url="http://127.0.0.1:$port"
serve() {
    "$program" serve --dev --data-dir "$work/data" --listen-addr "127.0.0.1:$port" --log-level warn &
    server=$!
    until curl --silent --fail --output /dev/null "$url/health"; do sleep 0.1; done
}
kill_server() {
    kill -9 "$server"
    wait "$server" 2>/dev/null || true
}
# What has been uploaded to a key is this file, and there is one version of it.
check() {
    curl --silent --fail "$url/v1/keys/clients/acme/$1" | cmp - "$2"
    versions=$(curl --silent "$url/v1/objects?namespace=clients&tenant_id=acme&limit=1000" |
        python3 -c 'import json, sys; print(sum(o["key"] == sys.argv[1] for o in json.load(sys.stdin)["objects"]))' "$1")
    [ "$versions" = 1 ]
    echo "$1: as it was sent, once"
}
endpoint() { echo "$url/v1/uploads?namespace=clients&tenant_id=acme&key=$1"; }
python() { "$work/venv/bin/python" "$here/upload.py" "$@"; }
node() { NODE_PATH="$work/node_modules" command node "$here/upload.js" "$@"; }

head --bytes=30000001 /dev/urandom >"$work/file"
: >"$work/empty"
serve

python "$(endpoint tuspy)" "$work/file" 4000000
check tuspy "$work/file"
python "$(endpoint tuspy-checksum)" "$work/file" 4000000 checksum
check tuspy-checksum "$work/file"
node "$(endpoint js)" "$work/file"
check js "$work/file"
node "$(endpoint js-pieces)" "$work/file" chunkSize=5000000
check js-pieces "$work/file"
node "$(endpoint js-with-creation)" "$work/file" uploadDataDuringCreation=true
check js-with-creation "$work/file"
node "$(endpoint js-deferred)" "$work/file" uploadLengthDeferred=true chunkSize=7000000
check js-deferred "$work/file"
node "$(endpoint js-parallel)" "$work/file" parallelUploads=4
check js-parallel "$work/file"
node "$(endpoint js-override)" "$work/file" overridePatchMethod=true
check js-override "$work/file"
node "$(endpoint js-empty)" "$work/empty"
check js-empty "$work/empty"

# The client is killed and another one goes on by the URL that the first one wrote down.
for client in python node; do
    "$client" "$(endpoint "killed-$client")" "$work/file" slow "url=$work/url" &
    first=$!
    until [ -s "$work/url" ]; do sleep 0.1; done
    sleep 1
    kill -9 "$(pgrep -P "$first" || echo "$first")"
    wait "$first" 2>/dev/null || true
    "$client" "$(endpoint "killed-$client")" "$work/file" "from=$(cat "$work/url")"
    check "killed-$client" "$work/file"
    rm "$work/url"
done

# The server is killed three times while each client tries on by itself.
for client in python node; do
    "$client" "$(endpoint "server-killed-$client")" "$work/file" slow "url=$work/url" &
    running=$!
    # tuspy tries again to send a piece, but not to make an upload.
    until [ -s "$work/url" ]; do sleep 0.1; done
    for _ in 1 2 3; do
        sleep 1
        kill_server
        serve
    done
    wait "$running"
    check "server-killed-$client" "$work/file"
    rm "$work/url"
done

# What a client has been told of has become an object; of one that was never told where it is, nobody could go on.
find "$work"/data/*/uploads/open -name '*.bytes' -size +0 -printf 'left: %s bytes\n'
echo 'all of it is as it was sent'
