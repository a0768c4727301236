//! The program: all of it is [`pgoutbox::cli`].

use std::process::ExitCode;

/// Much of what an event allocates is freed by lapin's thread, which the system's allocator is
/// slow at: it took three microseconds more of each event.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    pgoutbox::cli::main()
}
