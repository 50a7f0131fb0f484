//! The walls between the rooms: who may depend on whom, and in which room a library lives.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// Which rooms of ours a room may depend on. `core <- proto <- raft <- broker <- server <- cli`;
/// `storage <- raft`; `proto <- client <- cli`; `core` and `storage` do not know each other.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("storage", &[]),
    ("proto", &["core"]),
    ("raft", &["core", "proto", "storage"]),
    ("broker", &["core", "proto", "raft"]),
    ("server", &["core", "proto", "storage", "raft", "broker"]),
    ("client", &["proto"]),
    ("cli", &["proto", "client", "server"]),
];

/// Packages that prove the rest and are never shipped: they may depend on every room.
const PROOFS: &[&str] = &["tests", "jepsen-like"];

/// Libraries that live in few rooms; the name is a prefix.
const LIVES_ONLY_IN: &[(&str, &[&str])] = &[
    ("openraft", &["raft"]),
    ("sled", &["storage"]),
    ("tonic", &["proto", "server", "client"]),
    ("clap", &["cli"]),
];

/// For each package of the workspace, without the prefix: what it depends on outside of its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo(&[
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let listed = package["dependencies"].as_array().unwrap().iter();
            let normal = listed.filter(|dependency| dependency["kind"].is_null());
            (
                room(&text(&package["name"])),
                normal.map(|dependency| text(&dependency["name"])).collect(),
            )
        });
    packages.collect()
}

/// What cargo answers.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn room(package: &str) -> String {
    package
        .strip_prefix("ticketrail-")
        .unwrap_or(package)
        .to_owned()
}

#[test]
fn arrows_between_rooms_point_one_way() {
    let found = dependencies();
    let known: BTreeMap<_, _> = MAY_DEPEND_ON.iter().copied().collect();
    for (name, dependencies) in &found {
        if PROOFS.contains(&name.as_str()) {
            continue;
        }
        let allowed = known.get(name.as_str());
        let allowed = allowed
            .unwrap_or_else(|| panic!("room `{name}` has no place in the house: add it here"));
        for dependency in dependencies
            .iter()
            .filter(|dependency| dependency.starts_with("ticketrail-"))
        {
            let dependency = room(dependency);
            assert!(
                allowed.contains(&dependency.as_str()),
                "`{name}` must not depend on `{dependency}`"
            );
        }
    }
    for (name, _) in MAY_DEPEND_ON {
        assert!(found.contains_key(*name), "room `{name}` is gone");
    }
}

#[test]
fn nothing_that_is_shipped_depends_on_the_proofs() {
    for (name, dependencies) in dependencies() {
        for proof in PROOFS {
            let depends = dependencies.contains(&format!("ticketrail-{proof}"));
            assert!(
                !depends || PROOFS.contains(&name.as_str()),
                "`{name}` depends on `{proof}`"
            );
        }
    }
}

#[test]
fn libraries_stay_in_their_rooms() {
    for (name, dependencies) in dependencies() {
        for (library, rooms) in LIVES_ONLY_IN {
            let uses = dependencies
                .iter()
                .any(|dependency| dependency.starts_with(library));
            let may = rooms.contains(&name.as_str()) || PROOFS.contains(&name.as_str());
            assert!(
                !uses || may,
                "`{library}` belongs into {rooms:?}, not into `{name}`"
            );
        }
    }
}

#[test]
fn the_core_is_no_std_and_depends_on_nothing() {
    assert_eq!(dependencies()["core"], BTreeSet::new());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/core/src");
    let lib = fs::read_to_string(folder.join("lib.rs")).unwrap();
    let attributes: Vec<_> = lib.lines().filter(|line| line.starts_with("#![")).collect();
    assert!(attributes.contains(&"#![no_std]"), "{attributes:?}");
    // std comes in for its own tests only.
    let std: Vec<_> = lib
        .lines()
        .filter(|line| line.contains("extern crate std"))
        .collect();
    assert_eq!(std, ["extern crate std;"]);
    assert!(
        lib.contains("#[cfg(test)]\nextern crate std;"),
        "std is for tests only"
    );
}

/// `crates/proto/proto` is a link to `proto`: cargo packs what is below the folder of a package only.
#[test]
fn the_package_of_the_protocol_holds_the_files_it_is_built_from() {
    let packed = cargo(&[
        "package",
        "--list",
        "--offline",
        "--allow-dirty",
        "--package",
        "ticketrail-proto",
    ]);
    for file in [
        "proto/ticketrail/v1/publisher_service.proto",
        "proto/ticketrail/peer/v1/peer.proto",
        "proto/ticketrail/store/v1/log.proto",
    ] {
        assert!(packed.lines().any(|line| line == file), "no {file}");
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/proto/build.rs");
    let build = fs::read_to_string(build).unwrap();
    assert!(build.contains("const ROOT: &str = \"proto\";"), "{build}");
}
