//! The programs that the harness starts, built by cargo itself so that they are never stale.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Which program a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// `ticketrail serve`, as it is shipped.
    #[default]
    Product,
    /// `faulty-node` of the package `ticketrail-jepsen-like`: the same server on a disk that loses at a
    /// kill what was not synced, with faults and a wall clock that can be set from outside.
    Faulty,
}

/// Names a `ticketrail` program to test instead of the one that is built here.
const PRODUCT_OVERRIDE: &str = "TICKETRAIL_BIN";

impl Program {
    /// Where the program is; builds it first, once per process.
    ///
    /// # Panics
    /// When it does not build.
    #[must_use]
    pub fn path(self) -> &'static Path {
        static PRODUCT: OnceLock<PathBuf> = OnceLock::new();
        static FAULTY: OnceLock<PathBuf> = OnceLock::new();
        match self {
            Self::Product => PRODUCT.get_or_init(|| match env::var_os(PRODUCT_OVERRIDE) {
                Some(path) => PathBuf::from(path),
                None => build("--bin", "ticketrail").join("ticketrail"),
            }),
            Self::Faulty => {
                FAULTY.get_or_init(|| build("--bin", "faulty-node").join("faulty-node"))
            }
        }
    }

    /// The arguments that come before the flags of `serve`.
    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Product => &["serve"],
            Self::Faulty => &[],
        }
    }
}

/// `target/<profile>`: where this very program was built.
#[must_use]
pub fn profile_folder() -> PathBuf {
    let this = env::current_exe().expect("a running program has a path");
    let folder = this.parent().expect("a program lies in a folder");
    // Tests lie in `deps`, programs beside it.
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    folder.to_owned()
}

/// Where an example of the workspace is; builds it first.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    build("--example", name).join("examples").join(name)
}

/// Of the whole workspace: a package alone has other features of its dependencies, which would all be
/// compiled anew. The folder of what is built.
fn build(kind: &str, name: &str) -> PathBuf {
    let folder = profile_folder();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--workspace", kind, name])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo build {kind} {name} failed:\n{errors}"
    );
    folder
}
