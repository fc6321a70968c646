//! The `isochrone` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    isochrone::cli::main()
}
