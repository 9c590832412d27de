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

# Every fuzz target for some seconds each (10 if nothing is said).
fuzz *seconds:
    tools/fuzz.sh {{seconds}}

# Licences, sources, advisories and duplicate versions of the dependencies.
deny:
    tools/deny.sh all

# Micro-benchmarks with criterion; `just bench -- put` those with `put` in their names.
bench *arguments:
    cargo bench --bench data_path_bench --bench storage_bench --bench memory_bench --bench resource_bench \
        --bench performance_validation {{arguments}}

# Instructions of the hottest functions, held to the baseline; `just instructions --renew` writes a new one.
instructions *arguments:
    tools/check_instructions.py {{arguments}}

# Scenarios of perf/scenarios/ (all, or those that are named) on this server and its peers, in turns on two cores:
# results as JSON, a table and plots in perf/results/.
perf *arguments:
    cargo build --release --package just_storage --package just_storage_perf
    target/release/just_storage_perf run {{arguments}}
