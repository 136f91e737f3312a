//! Compiles `proto/` with protox, so that no protoc is needed, and writes the descriptor set that
//! the reflection service answers from.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const PROTOS: [&str; 6] = [
    "terrace/v1/terrace.proto",
    "terrace/v1/types.proto",
    "terrace/v1/events.proto",
    "terrace/v1/hbm.proto",
    "terrace/v1/movement.proto",
    "terrace/v1/retention.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(PROTOS)?;

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out_dir.join("terrace_v1.fds"), compiler.encode_file_descriptor_set())?;

    // Hashes, tokens and salts come as views into the request's buffer: nothing is copied.
    tonic_prost_build::configure()
        .bytes(".terrace.v1")
        .btree_map(".terrace.v1")
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
