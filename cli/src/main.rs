//! The timbre command.
fn main() {}
