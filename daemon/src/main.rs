//! The `isochrone` binary.
fn main() {}
