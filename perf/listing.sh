#!/usr/bin/env bash
# The figures under "Listing" in docs/PERFORMANCE.md: pages out of 1,000 objects against pages out of 1,000,000, on SQLite
# and on PostgreSQL, in turns within one run. Needs sqlite3, python3 and PostgreSQL 15
# (apt-get install sqlite3 python3 postgresql-15). Everything it starts it ends; its data is in a temporary directory.
#   perf/listing.sh [rounds] [requests of a round]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-7} requests=${2:-200}
cargo build --release --quiet --workspace
server=target/release/just_storage load=target/release/just_storage_perf
programs=/usr/lib/postgresql/15/bin
sizes=(1000 1000000)

work=$(mktemp -d "${TMPDIR:-/tmp}/just_storage_listing.XXXXXX")
chmod 755 "$work"
pids=() postgres_pid=''
declare -A ports cursors servers
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    [ -z "$postgres_pid" ] || kill -INT "$postgres_pid" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

# PostgreSQL refuses to work as root.
as_postgres=()
mkdir "$work/postgres"
if [ "$(id -u)" = 0 ]; then
    as_postgres=(setpriv --reuid postgres --regid postgres --clear-groups)
    chown postgres: "$work/postgres"
fi
"${as_postgres[@]}" "$programs/initdb" --no-sync -A trust -U postgres -E UTF8 --locale C -D "$work/postgres/data" >/dev/null
"${as_postgres[@]}" "$programs/postgres" -D "$work/postgres/data" -p 18432 -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories="$work/postgres" -c shared_buffers=1GB -c max_wal_size=4GB 2>"$work/postgres/log" &
postgres_pid=$!
psql=(psql -XqtA -v ON_ERROR_STOP=1 -h "$work/postgres" -p 18432 -U postgres)
until "${psql[@]}" -d postgres -c 'SELECT 1' >/dev/null 2>&1; do sleep 0.1; done

# One tenant has nearly all objects, of which every tenth is cold. A small one has 100, the oldest of all.
columns='sequence, id, namespace, tenant_id, key, status, storage_class, content_hash, size_bytes, content_type, metadata,
    writer, created_at, updated_at'
fill_sqlite() {
    sqlite3 "$1" >/dev/null <<SQL
PRAGMA cache_size = -1000000; PRAGMA synchronous = OFF;
BEGIN;
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $2 + 100)
INSERT INTO objects ($columns)
SELECT n, CAST(printf('%016d', n) AS BLOB), 'models', iif(n <= 100, 'small', 'acme'),
       'runs/' || (n / 1000) || '/' || n, 1, n % 10 = 0, randomblob(32), 4096, 'application/octet-stream',
       '{"framework":"torch"}', 1, 1764000000000 + n, 1764000000000 + n FROM numbers;
INSERT INTO blobs (content_hash, storage_class, size_bytes, ref_count, place)
SELECT content_hash, storage_class, size_bytes, 1, '0000000000000001-' || sequence FROM objects ORDER BY content_hash;
COMMIT;
SQL
}
fill_postgres() {
    "${psql[@]}" -d "$1" <<SQL
INSERT INTO objects ($columns)
SELECT n, lpad(to_hex(n), 32, '0')::uuid, 'models',
       CASE WHEN n <= 100 THEN 'small' ELSE 'acme' END, 'runs/' || n / 1000 || '/' || n, 1, (n % 10 = 0)::int,
       sha256(int8send(n)), 4096, 'application/octet-stream', '{"framework":"torch"}', 1,
       1764000000000 + n, 1764000000000 + n
FROM generate_series(1::bigint, $2 + 100) AS n;
INSERT INTO blobs (content_hash, storage_class, size_bytes, ref_count, place)
SELECT content_hash, storage_class, size_bytes, 1, '0000000000000001-' || sequence FROM objects ORDER BY content_hash;
SELECT setval('objects_sequence', $2 + 2048);
VACUUM ANALYZE;
SQL
}

# A server of so many objects. The first start makes the schema, between the two it is filled.
serve() { # database, objects, port
    local directory="$work/$1-$2" url="sqlite://$work/$1-$2/metadata.db"
    if [ "$1" = postgres ]; then
        url="postgres://postgres@127.0.0.1:18432/objects_$2"
        "${psql[@]}" -d postgres -c "CREATE DATABASE objects_$2"
    fi
    start "$directory" "$url" "$3"
    kill "${pids[-1]}"
    wait "${pids[-1]}"
    if [ "$1" = postgres ]; then fill_postgres "objects_$2" "$2" >/dev/null; else fill_sqlite "$directory/metadata.db" "$2"; fi
    start "$directory" "$url" "$3"
}
start() { # directory, url, port
    taskset -c 0 "$server" serve --dev --data-dir "$1" --database-url "$2" --listen-addr "127.0.0.1:$3" --node-name "$3" \
        --log-level error 2>>"$work/log" &
    pids+=($!)
    servers[$3]=$!
    until curl -sf "http://127.0.0.1:$3/health/ready" >/dev/null; do sleep 0.1; done
}

scope='namespace=models&tenant_id=acme'
# The cursor half way through the listing of the large tenant.
middle() { # port, objects
    python3 - "$@" <<'PYTHON'
import http.client, sys
port, objects = map(int, sys.argv[1:])
connection, cursor, step = http.client.HTTPConnection("127.0.0.1", port), "", min(objects // 2, 1000)
for _ in range(objects // 2 // step):
    connection.request("GET", f"/v1/objects?namespace=models&tenant_id=acme&limit={step}{cursor}")
    page = connection.getresponse().read()
    cursor = "&cursor=" + page[page.rindex(b'"next_cursor":"') + 15:].split(b'"')[0].decode()
print(cursor.removeprefix("&cursor="))
PYTHON
}

# The CPU time so far of a server, and of all of PostgreSQL where it is the database, in ticks of 10 ms (proc(5)).
ticks() { # database, port
    local counted=("${servers[$2]}")
    [ "$1" = sqlite ] || counted+=($(pgrep -P "$postgres_pid"))
    # A connection may have been closed since.
    for pid in "${counted[@]}"; do sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null || true; done |
        awk '{sum += $12 + $13} END {print sum}'
}

# The p50 of a round, and the CPU time of a request, in microseconds.
measure() { # database, port, path
    local before after p50
    before=$(ticks "$1" "$2")
    p50=$(taskset -c 1 "$load" get --url "http://127.0.0.1:$2" --path "$3" --connections 1 --count "$requests" |
        awk '/^latency p50/ {print $3}')
    after=$(ticks "$1" "$2")
    echo "$p50 $(((after - before) * 10000 / requests))"
}

port=18100
for database in sqlite postgres; do
    for size in "${sizes[@]}"; do
        port=$((port + 1))
        ports[$database-$size]=$port
        serve "$database" "$size" "$port"
        cursors[$database-$size]=$(middle "$port" "$size")
    done
done

path_of() { # case, database, size
    local cursor=${cursors[$2-$3]}
    case $1 in
    first-100) echo "/v1/objects?$scope&limit=100" ;;
    first-1000) echo "/v1/objects?$scope&limit=1000" ;;
    middle-100) echo "/v1/objects?$scope&limit=100&cursor=$cursor" ;;
    # Half of the small database is half such a page: its whole page is the first.
    middle-1000) if [ "$3" = 1000 ]; then path_of first-1000 "$2" "$3"; else echo "/v1/objects?$scope&limit=1000&cursor=$cursor"; fi ;;
    cold-100) echo "/v1/objects?$scope&limit=100&storage_class=cold" ;;
    small-100) echo '/v1/objects?namespace=models&tenant_id=small&limit=100' ;;
    info) echo "/v1/objects/$(curl -sf "http://127.0.0.1:${ports[$2-$3]}/v1/objects?$scope&limit=1&cursor=$cursor" |
        sed 's/.*"id":"\([^"]*\)".*/\1/')/info" ;;
    esac
}
median() { cut -d ' ' -f "$2" "$1" | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
ratio() { awk -v small="$1" -v large="$2" 'BEGIN {printf "%.2f", large / small}'; }

echo "$requests requests over one connection, $rounds rounds: median of the rounds' p50, and CPU time of a request, µs"
for database in sqlite postgres; do
    for case in first-100 first-1000 middle-100 middle-1000 cold-100 small-100 info; do
        for round in $(seq "$rounds"); do
            order=("${sizes[@]}")
            ((round % 2)) || order=("${sizes[1]}" "${sizes[0]}")
            for size in "${order[@]}"; do
                measure "$database" "${ports[$database-$size]}" "$(path_of "$case" "$database" "$size")" \
                    >>"$work/$database-$case-$size"
            done
        done
        small="$work/$database-$case-${sizes[0]}" large="$work/$database-$case-${sizes[1]}"
        p50s=("$(median "$small" 1)" "$(median "$large" 1)") cpus=("$(median "$small" 2)" "$(median "$large" 2)")
        printf '%-9s %-12s p50 %6d, %6d (%s)   CPU %6d, %6d (%s)\n' "$database" "$case" \
            "${p50s[@]}" "$(ratio "${p50s[@]}")" "${cpus[@]}" "$(ratio "${cpus[@]}")"
    done
done
