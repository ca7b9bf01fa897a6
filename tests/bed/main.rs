//! The bed's command line.
fn main() {}
