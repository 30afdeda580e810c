//! The `fathom` binary.
fn main() {}
