//! What is read as the body of a committed entry is that entry's: no segment is recycled or rewritten
//! under whoever reads it.

use std::collections::BTreeMap;

use bytes::Bytes;
use ticketrail_proto::stored::decode_bodies;

use super::Violation;

/// The payloads of the committed log.
#[derive(Default)]
pub struct Payloads {
    /// Empty: an entry of Raft's own.
    committed: BTreeMap<u64, Bytes>,
}

impl Payloads {
    /// An entry was applied for the first time anywhere.
    pub fn committed(&mut self, index: u64, payload: Bytes) {
        self.committed.insert(index, payload);
    }

    /// These bytes were read as the body of an entry; compaction may have left messages out.
    ///
    /// # Errors
    /// They are another's.
    pub fn check(&self, index: u64, read: &Bytes) -> Result<(), Violation> {
        match self.committed.get(&index) {
            Some(payload) if payload.is_empty() || payload == read => Ok(()),
            Some(payload) if is_part(payload, read) => Ok(()),
            Some(_) => Err(format!("entry {index} has other bytes")),
            None => Err(format!("entry {index} was never committed")),
        }
    }
}

/// Whether what was read has messages of this payload at their places, and none other there.
fn is_part(payload: &Bytes, read: &Bytes) -> bool {
    let (Ok(whole), Ok(part)) = (decode_bodies(payload.clone()), decode_bodies(read.clone()))
    else {
        return false;
    };
    let mut kept = 0;
    for place in 0..COMMANDS_MAX {
        for item in 0.. {
            let Some(message) = whole.get(place, item) else {
                break;
            };
            match part.get(place, item) {
                Some(found) if found != message => return false,
                found => kept += u32::from(found.is_some()),
            }
        }
    }
    kept > 0
}

/// Commands of an entry at most, as the proposer drains them.
const COMMANDS_MAX: u32 = 512;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_are_told() {
        let mut payloads = Payloads::default();
        payloads.committed(7, Bytes::from_static(b"seven"));
        payloads.committed(8, Bytes::new());
        payloads.check(7, &Bytes::from_static(b"seven")).unwrap();
        payloads.check(8, &Bytes::from_static(b"\0")).unwrap();
        assert!(payloads.check(7, &Bytes::from_static(b"eight")).is_err());
        assert!(payloads.check(9, &Bytes::from_static(b"nine")).is_err());
    }
}
