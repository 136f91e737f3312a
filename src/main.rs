//! The `terrace` binary. Holds nothing: the command line is `terrace::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    terrace::cli::main()
}
