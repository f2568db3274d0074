# syntax=docker/dockerfile:1
# Both images from one build of static binaries; nothing else is in them.
#   docker build --target operator -t REGISTRY/masque-operator:VERSION .
#   docker build --target gateway  -t REGISTRY/masque-gateway:VERSION .
# Multi-arch and a software bill of materials: docker buildx build --platform linux/amd64,linux/arm64 --sbom=true
# --provenance=true …
FROM rust:1.95-bookworm AS build
# The cryptography library has C and assembler.
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN rustup target add "$(uname -m)-unknown-linux-musl"
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-musl" && \
    cargo build --release --locked --target "$target" -p masque-gateway -p masque-operator && \
    install -D -t /out/usr/local/bin "target/$target/release/masque-gateway" "target/$target/release/masque-operator" && \
    mkdir -p /out/var/lib/masque-gateway

# The operator: a user without any privilege, and no writable file.
FROM scratch AS operator
COPY --from=build /out/usr/local/bin/masque-operator /usr/local/bin/masque-operator
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 9443 8080
ENTRYPOINT ["masque-operator"]

# A gateway: root, because a user other than root holds NET_ADMIN only through a file capability, which
# allowPrivilegeEscalation: false switches off. The pod drops every other capability.
FROM scratch AS gateway
COPY --from=build /out/ /
ENV PATH=/usr/local/bin
EXPOSE 9464
ENTRYPOINT ["masque-gateway"]
