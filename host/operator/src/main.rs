//! `vmgroup`, the binary. Everything is in the library.

use std::process::ExitCode;

/// glibc keeps for good what a start has needed in small pieces: lists and pages of
/// updates are read as trees. This one gives it back; how soon is said where it is
/// built, in `.cargo/config.toml`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    vmgroup_operator::cli::main(std::env::args_os())
}
