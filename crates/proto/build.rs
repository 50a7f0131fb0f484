//! Generates the Rust code of `proto/` without protoc, and the descriptor set of the public part for
//! server reflection.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// In the repository a link to the top folder `proto`, so that the published package holds its files.
const ROOT: &str = "proto";
/// The top folder itself, for a checkout by a git that makes files of links, as on Windows.
const TARGET: &str = "../../proto";
const PUBLIC: &[&str] = &["ticketrail/v1"];
const ALL: &[&str] = &["ticketrail/v1", "ticketrail/peer/v1", "ticketrail/store/v1"];

fn main() -> Result<()> {
    let root = if Path::new(ROOT).is_dir() {
        ROOT
    } else {
        TARGET
    };
    println!("cargo:rerun-if-changed={root}");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = compiler(root, PUBLIC)?.encode_file_descriptor_set();
    fs::write(out.join("ticketrail_v1.fds"), public)?;

    let all = compiler(root, ALL)?;
    // For tests that hold every message to its golden fixture.
    fs::write(
        out.join("ticketrail_all.fds"),
        all.encode_file_descriptor_set(),
    )?;

    tonic_prost_build::configure()
        // Payloads are slices of the buffer that they arrived in, never copies.
        .bytes(".")
        // Ordered maps: the same message always has the same bytes.
        .btree_map(".")
        .compile_fds(all.file_descriptor_set())?;
    Ok(())
}

fn compiler(root: &str, folders: &[&str]) -> Result<protox::Compiler> {
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true);
    for folder in folders {
        compiler.open_files(protos(&Path::new(root).join(folder))?)?;
    }
    Ok(compiler)
}

fn protos(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
