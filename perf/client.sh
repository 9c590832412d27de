#!/usr/bin/env bash
# Many small files up and down: our client with our server, and rclone with its own, in turns on this machine.
# Usage: [PROGRAM=…] perf/client.sh [rounds] [files] [rclone]
# Ours is durable before it answers and compares SHA-256 in both directions; rclone's server syncs nothing, and WebDAV
# knows no hashes. Every round goes to a directory of its own in both, and nothing is deleted before the end.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-5}
files=${2:-10000}
rclone=${3:-rclone}
program=${PROGRAM:-target/release/just_storage}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/client-perf.XXXXXX")
servers=()
finish() { kill "${servers[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT

mkdir -p "$work/source" "$work/webdav"
python3 - "$work/source" "$files" <<'PYTHON'
import os, sys
root, files = sys.argv[1], int(sys.argv[2])
for number in range(files):
    directory = f"{root}/{number // 100:03}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{number:05}.bin", "wb") as file:
        file.write(os.urandom(4096))
PYTHON

export JUST_STORAGE_URL=http://127.0.0.1:18480 RCLONE_CONFIG=/dev/null
"$program" serve --dev --data-dir "$work/store" --listen-addr 127.0.0.1:18480 2>"$work/server.log" &
servers+=($!)
"$rclone" serve webdav "$work/webdav" --addr 127.0.0.1:18481 2>"$work/webdav.log" &
servers+=($!)
for port in 18480 18481; do
    until curl -s -o /dev/null "http://127.0.0.1:$port/"; do sleep 0.1; done
done

# Wall time of a command, its own CPU time, and that of the server meanwhile, each in seconds.
measured() {
    local server=$1 before wall
    shift
    before=$(cpu "$server")
    TIMEFORMAT='%R %U %S'
    { time "$@" >/dev/null 2>"$work/last.log"; } 2>"$work/times" || { cat "$work/last.log" >&2; exit 1; }
    read -r wall user system <"$work/times"
    python3 -c "print(f'$wall s ({$user + $system:.2f} + {$(cpu "$server") - $before:.2f} CPU)')"
}
cpu() { awk '{ print ($14 + $15) / 100 }' "/proc/$1/stat"; }
remote=":webdav,url='http://127.0.0.1:18481':"
# As it comes, rclone asks a WebDAV server at most a hundred times a second.
flags=(--transfers 16 --checkers 16 --webdav-pacer-min-sleep 0s)
for ((round = 1; round <= rounds; round++)); do
    ours() {
        up=$(measured "${servers[0]}" "$program" put -j 16 "$work/source" "models/acme/$round/")
        down=$(measured "${servers[0]}" "$program" get -j 16 "models/acme/$round/" "$work/ours-$round")
        echo "round $round ours: up $up, down $down"
    }
    theirs() {
        up=$(measured "${servers[1]}" "$rclone" copy "${flags[@]}" "$work/source" "$remote$round")
        down=$(measured "${servers[1]}" "$rclone" copy "${flags[@]}" "$remote$round" "$work/theirs-$round")
        echo "round $round rclone: up $up, down $down"
    }
    if ((round % 2)); then ours; theirs; else theirs; ours; fi
    diff -r "$work/source" "$work/ours-$round"
    diff -r "$work/source" "$work/theirs-$round"
    echo "round $round load: $(cut -d' ' -f1 /proc/loadavg)"
done
