//! Compiles the `.proto` files in pure Rust: no `protoc` on the machine is needed.

use std::path::PathBuf;

use protox::prost::Message;

const FILES: [&str; 4] = [
    "nearfield/v1/vector_search.proto",
    "nearfield/v1/collections.proto",
    "nearfield/admin/v1/backups.proto",
    "nearfield/log/v1/log.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
