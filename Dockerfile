# The image: one static program with its SBOM, the CA certificates, a user and three empty directories. No shell, no package
# manager, no root.
#
#   docker build -t tokenward:latest .
#
# Where the builder image cannot be pulled, scripts/image.sh puts a program that is already built into the same final stage.
ARG BUILDER=docker.io/library/rust:1.95-bookworm

FROM ${BUILDER} AS rootfs
WORKDIR /src
COPY . .
# glibc linked in whole; --target is a must, or proc macros would be linked so too and fail to load. Debian 12's glibc (2.36) is
# new enough for host names to be resolved in a static program without any file of glibc's beside it.
ENV RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
RUN cargo build --locked --release --target x86_64-unknown-linux-gnu --bin tokenward \
    && scripts/image-rootfs.sh target/x86_64-unknown-linux-gnu/release/tokenward /

# The tour (deploy/tour): the same program, the emulator of Entra, and a shell. `docker build --target tour .`
FROM rootfs AS emulator
RUN cargo build --locked --release --target x86_64-unknown-linux-gnu -p entra-emulator

FROM docker.io/library/debian:bookworm-slim AS tour
COPY --from=rootfs /rootfs/tokenward /usr/local/bin/
COPY --from=emulator /src/target/x86_64-unknown-linux-gnu/release/entra-emulator /usr/local/bin/
COPY --from=rootfs --chown=65532:65532 /owned/ /
USER 65532:65532

# `rootfs` is the stage above, or a directory given with --build-context rootfs=DIR.
FROM scratch
COPY --from=rootfs --chown=0:0 /rootfs/ /
# The daemon's own: a named volume that is mounted on one takes its owner over.
COPY --from=rootfs --chown=65532:65532 /owned/ /
USER 65532:65532
ENV TOKENWARD_CONFIG=/etc/tokenward/tokenward.toml \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# Public, local, ops. Nothing is published by this.
EXPOSE 8080 7070 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["/tokenward"]
CMD ["serve"]
