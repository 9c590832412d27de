# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked --bin just_storage && cp target/release/just_storage /just_storage

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /data just_storage \
    && install -d -o just_storage -g just_storage /data
COPY --from=build /just_storage /usr/local/bin/just_storage
USER just_storage
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["just_storage"]
CMD ["serve"]
