//! tokenward
fn main() {}
