//! Project chores: tidy, conformance page, bench.

fn main() {}
