//! QUIC with HTTP/3 as one shard drives it: quinn-proto as a state machine, UDP sockets with GSO and GRO, connection-id steering.
