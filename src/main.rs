//! Arguments to command, signals, exit code.

fn main() {}
