#!/usr/bin/env bash
# The figures of docs/PERFORMANCE.md: server on core 0, load on core 1, ours and nginx in turns. Needs wrk and nginx
# (apt-get install wrk nginx). Everything it starts it ends; its data is in a temporary directory.
#   perf/side_by_side.sh [rounds]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
cargo build --release --quiet --workspace
server=target/release/just_storage load=target/release/just_storage_perf

work=$(mktemp -d "${TMPDIR:-/tmp}/just_storage_perf.XXXXXX")
server_pid='' nginx_pid=''
finish() {
    [ -z "$server_pid" ] || kill "$server_pid" 2>/dev/null || true
    [ -z "$nginx_pid" ] || kill "$nginx_pid" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

mkdir -p "$work/html"
head -c 4096 /dev/urandom >"$work/html/4k"
cat >"$work/nginx.conf" <<CONF
daemon off; worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 4096; }
http {
    access_log off; sendfile on; tcp_nopush on; open_file_cache max=1000;
    keepalive_requests 100000000; keepalive_timeout 600;
    client_body_temp_path $work/1; proxy_temp_path $work/2; fastcgi_temp_path $work/3;
    uwsgi_temp_path $work/4; scgi_temp_path $work/5;
    server { listen 127.0.0.1:18088; root $work/html; }
}
CONF
taskset -c 0 nginx -c "$work/nginx.conf" &
nginx_pid=$!
taskset -c 0 "$server" serve --dev --data-dir "$work/data" --listen-addr 127.0.0.1:18077 2>"$work/log" &
server_pid=$!
url=http://127.0.0.1:18077
until curl -sf "$url/health/ready" >/dev/null; do sleep 0.1; done
curl -sfT "$work/html/4k" "$url/v1/keys/bench/perf/4k" >/dev/null

rate() { taskset -c 1 wrk -t1 -c64 -d5 "$1" | awk '/Requests\/sec/ {print $2}'; }
echo "GET 4 KiB, 64 connections, requests/s (nginx: sendfile, no access log; ours: with its log)"
for round in $(seq "$rounds"); do
    if ((round % 2)); then
        theirs=$(rate http://127.0.0.1:18088/4k) ours=$(rate "$url/v1/keys/bench/perf/4k")
    else
        ours=$(rate "$url/v1/keys/bench/perf/4k") theirs=$(rate http://127.0.0.1:18088/4k)
    fi
    awk -v o="$ours" -v t="$theirs" 'BEGIN { printf "  nginx %9.0f   ours %9.0f   ratio %.2f\n", t, o, o / t }'
done

put() {
    taskset -c 1 "$load" put --url "$url" --namespace bench --tenant perf --server-pid "$server_pid" "$@" |
        grep -E '^(errors|rate|throughput|latency p50|latency p99 |server CPU each|server RSS peak)'
}
echo "durable PUT 4 KiB, 64 connections"
put --size 4096 --connections 64 --seconds 10
echo "durable PUT 4 KiB, 1 connection"
put --size 4096 --connections 1 --seconds 5
echo "durable PUT 1 MiB, 16 connections"
put --size 1048576 --connections 16 --seconds 5
echo "durable PUT 256 MiB, 2 connections"
put --size 268435456 --connections 2 --count 16 --seconds 30
echo "1,000 slow uploads at once"
taskset -c 1 "$load" slow --url "$url" --namespace bench --tenant perf --connections 1000 \
    --bytes-per-second 500 --size 65536 --seconds 10 --server-pid "$server_pid" |
    grep -E '^(errors|  2xx after|server RSS peak)'
echo "one body of 8 GiB, in and out"
echo 5 >"/proc/$server_pid/clear_refs" # forget the peak of what ran before
put --size 8589934592 --connections 1 --count 1 --seconds 300 --keys-prefix large
taskset -c 1 curl -so /dev/null -w '  out: %{speed_download} bytes/s\n' "$url/v1/keys/bench/perf/large/0"
grep VmHWM "/proc/$server_pid/status"
