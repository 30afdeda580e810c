//! What a reviewer would run.
fn main() {}
