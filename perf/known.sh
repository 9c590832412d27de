#!/usr/bin/env bash
# Pushing a dataset that is there already: new files are sent whole, then the same ones again under the same keys (`--update`),
# once more under the same keys as new versions, and under another prefix. In the end nothing differs.
# Usage: [PROGRAM=…] perf/known.sh [rounds] [files] [bytes of each] [delay in ms, each way]
# With a delay, the client talks to the server through a relay that hands on each piece so much later, as a network does. It is
# in Python and shares the machine: it makes both sides of a comparison slower.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3}
files=${2:-10000}
bytes=${3:-4096}
delay=${4:-0}
program=${PROGRAM:-target/release/just_storage}
port=${PORT:-18490}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/known-perf.XXXXXX")
others=()
finish() { kill "${others[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT

"$program" serve --dev --data-dir "$work/store" --listen-addr "127.0.0.1:$port" --log-format json \
    2>"$work/server.log" &
others+=($!)
server=$!
export JUST_STORAGE_URL=http://127.0.0.1:$port
if ((delay)); then
    python3 - "$port" "$((port + 1))" "$delay" <<'PYTHON' &
import asyncio, sys
server, port, delay = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) / 1000

async def hand_on(reader, writer):
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 18):
        loop.call_later(delay, writer.write, data)
    loop.call_later(delay, writer.close)

async def relay(reader, writer):
    onward = await asyncio.open_connection("127.0.0.1", server)
    await asyncio.gather(hand_on(reader, onward[1]), hand_on(onward[0], writer))

async def main():
    await (await asyncio.start_server(relay, "127.0.0.1", port)).serve_forever()
asyncio.run(main())
PYTHON
    others+=($!)
    export JUST_STORAGE_URL=http://127.0.0.1:$((port + 1))
fi
until curl -s -o /dev/null "$JUST_STORAGE_URL/health/ready"; do sleep 0.1; done

# Wall time of a command, its own CPU time, and that of the server meanwhile, each in seconds.
measured() {
    local before wall
    before=$(cpu)
    TIMEFORMAT='%R %U %S'
    { time "$program" put -j 16 "$@" 2>"$work/last.log"; } 2>"$work/times" || { cat "$work/last.log" >&2; exit 1; }
    read -r wall user system <"$work/times"
    python3 -c "print(f'$wall s ({$user + $system:.2f} + {$(cpu) - $before:.2f} CPU)')"
}
cpu() { awk '{ print ($14 + $15) / 100 }' "/proc/$server/stat"; }
# Requests that brought a file. The log is written beside them.
bodies() { sleep 0.2; grep -c '"message":"request","method":"PUT"' "$work/server.log" || true; }

for ((round = 1; round <= rounds; round++)); do
    rm -rf "$work/source"
    python3 - "$work/source" "$files" "$bytes" <<'PYTHON'
import os, sys
root, files, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(files):
    directory = f"{root}/{number // 100:03}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{number:05}.bin", "wb") as file:
        file.write(os.urandom(size))
PYTHON
    whole=$(measured "$work/source" "models/acme/$round/")
    sent=$(bodies)
    update=$(measured --update "$work/source" "models/acme/$round/")
    again=$(measured "$work/source" "models/acme/$round/")
    other=$(measured "$work/source" "models/acme/other-$round/")
    echo "round $round: whole $whole, --update $update, again $again, other prefix $other," \
        "$(($(bodies) - sent)) bodies after the first, load $(cut -d' ' -f1 /proc/loadavg)"
    "$program" verify "$work/source" "models/acme/other-$round/" 2>/dev/null
    "$program" verify "$work/source" "models/acme/$round/" 2>/dev/null
done
