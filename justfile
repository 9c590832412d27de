# The handful of verbs that everybody needs.

# Build and serve on this machine: data in ./data, SQLite, loopback, no credentials.
serve:
    cargo run --release -- serve --dev

# Every test.
test *arguments:
    tools/test.sh {{arguments}}

# What CI runs.
check:
    .ci/run

# Licences, sources and duplicate versions of the dependencies.
deny:
    cargo deny check licenses bans sources

# Micro-benchmarks of parser, hashing and storage.
bench *arguments:
    cargo bench {{arguments}}

# A durable PUT of 4 KiB and a GET of the same, 64 connections each, against a server on core 0.
perf:
    perf/side_by_side.sh
