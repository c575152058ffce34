//! `vmgroup`, the binary. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmgroup_operator::cli::main(std::env::args_os())
}
