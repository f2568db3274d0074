//! Capsules, contexts, templates and the CONNECT-IP (RFC 9484) state machines; RFC 9729 authentication.
