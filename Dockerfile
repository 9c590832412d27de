# syntax=docker/dockerfile:1

# Dependencies are compiled in a layer of their own, against a program that does nothing: they are compiled again when
# Cargo.toml or Cargo.lock change, and not when the source does.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY paired_sha256 paired_sha256
COPY perf/Cargo.toml perf/
COPY tools/crash_harness/Cargo.toml tools/crash_harness/
COPY tools/validate_db/Cargo.toml tools/validate_db/
# Every file that a manifest names has to be there, or Cargo does not read it.
RUN mkdir -p src benches perf/src tools/crash_harness/src tools/validate_db/src \
    && for target in src perf/src tools/crash_harness/src tools/validate_db/src; do \
        echo 'fn main() {}' > "$target/main.rs" || exit 1; \
    done \
    && touch src/lib.rs \
    && sed -n '/^\[\[bench\]\]/{n;s|^name = "\(.*\)"|benches/\1.rs|p}' Cargo.toml > benches/names \
    && xargs touch < benches/names
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked --package just_storage --bin just_storage

COPY src src
COPY migrations migrations
# Cargo goes by times: the source has to look newer than what was built of nothing.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    touch src/main.rs src/lib.rs \
    && cargo build --release --locked --package just_storage --bin just_storage \
    && install -D -m 0755 target/release/just_storage /out/just_storage

FROM debian:12-slim
LABEL org.opencontainers.image.title="JustStorage" \
      org.opencontainers.image.description="A content-addressable object store: durable before it answers, one binary, plain HTTP." \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, not a name: Kubernetes sees by it that this is not root, and volumes of an earlier image stay readable.
RUN groupadd --gid 10001 just_storage \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin just_storage \
    && install -d -m 0750 -o 10001 -g 10001 /data /data/hot /data/cold
COPY --from=build /out/just_storage /usr/local/bin/just_storage
COPY LICENSE /usr/share/doc/just_storage/LICENSE
USER 10001:10001
# Where SQLite puts what does not fit into memory, if the rest of the image may not be written to.
WORKDIR /data
ENV DATA_DIR=/data
# The database and the two roots, each of which may be a disk of its own.
VOLUME ["/data", "/data/hot", "/data/cold"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["just_storage", "health"]
ENTRYPOINT ["just_storage"]
CMD ["serve"]
