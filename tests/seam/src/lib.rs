//! Shows that nothing of `masque-http3` and `masque-protocol` knows which QUIC carries it: the tests
//! here drive both over an iroh connection, whose QUIC is noq and whose identities are public keys.
#![forbid(unsafe_code)]
