//! Conditions tell the truth, and nothing changes at rest.
