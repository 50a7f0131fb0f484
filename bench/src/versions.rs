//! Versions of all that takes part.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::system::System;

/// The clients whose versions are told, by their name in the lock file.
const CLIENTS: [&str; 4] = ["async-nats", "lapin", "redis", "ticketrail-client"];

/// By name; what is not there is left out.
pub(crate) fn versions(
    systems: &[System],
    ticketrail: &Path,
    nats: &Path,
) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut add = |name: &str, version: Option<String>| {
        if let Some(version) = version {
            versions.insert(name.to_owned(), version);
        }
    };
    for system in systems {
        match system {
            System::Ticketrail => {
                add(
                    "ticketrail",
                    says(Command::new(ticketrail).arg("--version")),
                );
                let commit = [
                    "-C",
                    env!("CARGO_MANIFEST_DIR"),
                    "describe",
                    "--always",
                    "--dirty",
                ];
                add(
                    "commit of this checkout",
                    says(Command::new("git").args(commit)),
                );
            }
            System::Rabbitmq => {
                add("rabbitmq-server", package("rabbitmq-server"));
                add("erlang", package("erlang-base"));
            }
            System::NatsSync | System::Nats => {
                add("nats-server", says(Command::new(nats).arg("--version")));
            }
            System::Floor => {}
            System::Redis | System::RedisWait => add("redis-server", package("redis-server")),
        }
    }
    for client in CLIENTS {
        add(
            &format!("client {client}"),
            locked(include_str!("../Cargo.lock"), client),
        );
    }
    versions
}

fn package(name: &str) -> Option<String> {
    says(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", name]))
}

fn says(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The version of a package in a lock file.
fn locked(lock: &str, name: &str) -> Option<String> {
    let (_, after) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(after.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_are_in_the_lock_file() {
        for client in CLIENTS {
            assert!(
                locked(include_str!("../Cargo.lock"), client).is_some(),
                "{client}"
            );
        }
        assert_eq!(
            locked("name = \"a\"\nversion = \"1.2\"\n", "a").as_deref(),
            Some("1.2")
        );
    }
}
