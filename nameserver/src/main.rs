//! The `nameserver` program.
fn main() {}
