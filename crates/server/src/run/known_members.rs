//! The members as this node last knew them, in a file of its data folder. A node whose state is lost or
//! wrong takes another's, and cannot read in its own where the others are.
//!
//! It is advice: where the file is missing or old, the members of the configuration are asked alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use ticketrail_core::NodeId;
use ticketrail_raft::PeerAddress;

use crate::config;

const FILE: &str = "members";
const UNFINISHED: &str = "members-unfinished";

/// What was written last; nothing where there is nothing, or it cannot be read.
pub(super) fn read(data_dir: &Path) -> BTreeMap<NodeId, PeerAddress> {
    let text = match fs::read_to_string(data_dir.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            tracing::warn!(%error, "the members that this node knew cannot be read");
            return BTreeMap::new();
        }
    };
    config::members(text.trim()).unwrap_or_else(|error| {
        tracing::warn!(%error, "the members that this node knew cannot be read");
        BTreeMap::new()
    })
}

/// Keeps them.
pub(super) fn write(data_dir: &Path, members: &BTreeMap<NodeId, PeerAddress>) -> io::Result<()> {
    let text: Vec<String> = members.iter().map(config::member_text).collect();
    let unfinished = data_dir.join(UNFINISHED);
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{}", text.join(","))?;
    file.sync_all()?;
    fs::rename(unfinished, data_dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_are_known_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), BTreeMap::new());
        let address = |host: &str| PeerAddress {
            peer: format!("{host}:7500"),
            client: format!("{host}:7400"),
        };
        let members = BTreeMap::from([(NodeId(1), address("a")), (NodeId(9), address("[::1]"))]);
        write(folder.path(), &members).unwrap();
        assert_eq!(read(folder.path()), members);
        fs::write(folder.path().join(FILE), "1=a").unwrap();
        assert_eq!(read(folder.path()), BTreeMap::new());
    }
}
