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

# Scenarios of perf/scenarios/ (all, or those that are named) on this server and its peers, in turns on two cores:
# results as JSON, a table and plots in perf/results/.
perf *arguments:
    cargo build --release --package just_storage --package just_storage_perf
    target/release/just_storage_perf run {{arguments}}
