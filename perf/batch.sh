#!/bin/bash
# 10,000 files of 4 KiB, one by one on 64 connections (wrk) and in one batch (curl), up, down from an empty cache and down once
# more, in turns: server on core 0, client on core 1. As wrk does, curl throws away what comes down; that it is all there is seen
# in one more request. Needs wrk, curl and python3.
#
# [KINDS="one many"] perf/batch.sh [ROUNDS [PROGRAM [PORT]]]
set -eu
rounds=${1:-3}
program=${2:-target/release/just_storage}
port=${3:-18090}
here=$(dirname "$0")
url=http://127.0.0.1:$port
query="namespace=models&tenant_id=acme"
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/batch-perf.XXXXXX")
server=
trap 'kill $server 2>/dev/null; rm -rf "$scratch"' EXIT

serve() {
  taskset -c 0 "$program" serve --dev --cores 1 --data-dir "$1" --listen-addr "127.0.0.1:$port" --log-level error &
  server=$!
  until curl -s -o /dev/null "$url/health/ready"; do sleep 0.05; done
}

stop() {
  kill $server
  wait $server || true
}

one_by_one() {
  taskset -c 1 wrk -t1 -c64 -d120 -s "$here/batch.lua" "$url" -- "$1" one/ | grep -E '^[0-9.]+ s$|^an answer was' | sort -u
}

# in_a_batch OUTPUT ARGUMENT…
in_a_batch() {
  local output=$1
  shift
  taskset -c 1 curl -sS -o "$output" -w '%{http_code} %{time_total} s\n' "$@"
}

# Of all threads, in nanoseconds of running: finer than the clock ticks of /proc/PID/stat.
cpu() {
  cat "/proc/$server/task/"*/schedstat | awk '{ sum += $1 } END { print sum / 1e9 }'
}

# What a command says, and how many seconds of CPU the server has spent on it.
measured() {
  local name=$1 before said
  shift
  before=$(cpu)
  said=$("$@")
  # A list waits until everything is in the database.
  curl -s -o /dev/null "$url/v1/objects?$query&limit=1"
  echo "  $name: $said, $(python3 -c "print(f'{$(cpu) - $before:.3f}')") s of the server's CPU"
}

python3 - "$scratch" <<'PYTHON'
import io, json, os, sys, tarfile
with tarfile.open(sys.argv[1] + "/files.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
    for number in range(10000):
        entry = tarfile.TarInfo(f"many/{number}")
        entry.size = 4096
        archive.addfile(entry, io.BytesIO(os.urandom(4096)))
with open(sys.argv[1] + "/many.json", "w") as body:
    json.dump({"items": [{"key": f"many/{number}"} for number in range(10000)]}, body)
PYTHON

for round in $(seq "$rounds"); do
  for kind in ${KINDS:-one many}; do
    echo "round $round, $kind"
    data=$scratch/data-$kind
    serve "$data"
    case $kind in
      one) measured up one_by_one put ;;
      many)
        measured up in_a_batch "$scratch/answer" -X POST -T "$scratch/files.tar" "$url/v1/batch/put?$query"
        echo "  stored: $(grep -c '"status":201' "$scratch/answer")"
        ;;
    esac
    stop
    serve "$data"
    for cache in cold warm; do
      case $kind in
        one) measured "down, $cache" one_by_one get ;;
        many)
          measured "down, $cache" in_a_batch /dev/null -d "@$scratch/many.json" "$url/v1/batch/get?$query"
          ;;
      esac
    done
    if [ "$kind" = many ]; then
      in_a_batch "$scratch/answer" -d "@$scratch/many.json" "$url/v1/batch/get?$query" >/dev/null
      echo "  files: $(tar -tf "$scratch/answer" | grep -c ^many/)"
    fi
    stop
    rm -rf "$data"
  done
done
