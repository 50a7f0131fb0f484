//! What was confirmed is stored, once, as it was sent; what was refused is not stored; ids are given
//! once. Bodies are unique, so a body tells which attempt it was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ticketrail_core::MessageId;

use super::Violation;

/// Publishes, as the clients were told of them and as the log has them.
#[derive(Default)]
pub struct Writes {
    stored: BTreeMap<MessageId, Bytes>,
    id_of: BTreeMap<Bytes, MessageId>,
    tried: BTreeSet<Bytes>,
    confirmed: BTreeMap<MessageId, Bytes>,
    refused: BTreeSet<Bytes>,
}

impl Writes {
    /// A client is about to publish.
    pub fn tried(&mut self, message: Bytes) {
        self.tried.insert(message);
    }

    /// The log stores a message.
    ///
    /// # Errors
    /// Its id or its bytes are there already, or nobody published it.
    pub fn stored(&mut self, id: MessageId, message: Bytes) -> Result<(), Violation> {
        if let Some(other) = self.id_of.insert(message.clone(), id) {
            return Err(format!("one message is stored twice, as {other} and {id}"));
        }
        if !self.tried.contains(&message) {
            return Err(format!("message {id} was published by nobody"));
        }
        if self.stored.insert(id, message).is_some() {
            return Err(format!("message id {id} was given twice"));
        }
        Ok(())
    }

    /// A client was told that its message is stored.
    ///
    /// # Errors
    /// The log has it not, or otherwise.
    pub fn confirmed(&mut self, id: MessageId, message: Bytes) -> Result<(), Violation> {
        let stored = self.stored.get(&id);
        if stored != Some(&message) {
            let what = stored.map_or("nothing", |_| "another message");
            return Err(format!(
                "message {id} was confirmed, the log has {what} there"
            ));
        }
        self.confirmed.insert(id, message);
        Ok(())
    }

    /// A client was told that its message is surely not stored, and does not repeat it.
    pub fn refused(&mut self, message: Bytes) {
        self.refused.insert(message);
    }

    /// The bytes of a message, where the log has it.
    #[must_use]
    pub fn bytes_of(&self, id: MessageId) -> Option<&Bytes> {
        self.stored.get(&id)
    }

    /// What was confirmed.
    pub fn all_confirmed(&self) -> impl Iterator<Item = MessageId> {
        self.confirmed.keys().copied()
    }

    /// When all is over: what was called refused was not stored later either.
    ///
    /// # Errors
    /// It was.
    pub fn check_refused(&self) -> Result<(), Violation> {
        let stored = |message: &&Bytes| self.id_of.contains_key(*message);
        match self.refused.iter().find(stored) {
            None => Ok(()),
            Some(message) => Err(format!(
                "message {} was called surely not stored, and is",
                self.id_of[message]
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ONE: Bytes = Bytes::from_static(b"one");
    const TWO: Bytes = Bytes::from_static(b"two");

    fn writes() -> Writes {
        let mut writes = Writes::default();
        writes.tried(ONE);
        writes.tried(TWO);
        writes
    }

    #[test]
    fn a_retry_that_is_stored_twice_is_told() {
        let mut writes = writes();
        writes.stored(MessageId(1), ONE).unwrap();
        writes.stored(MessageId(2), TWO).unwrap();
        assert!(writes.stored(MessageId(3), ONE).is_err());
    }

    #[test]
    fn an_id_that_is_given_twice_and_a_phantom_are_told() {
        let mut writes = writes();
        writes.stored(MessageId(1), ONE).unwrap();
        assert!(writes.stored(MessageId(1), TWO).is_err());
        assert!(
            writes
                .stored(MessageId(2), Bytes::from_static(b"who"))
                .is_err()
        );
    }

    #[test]
    fn a_confirm_without_its_entry_and_a_refusal_with_one_are_told() {
        let mut writes = writes();
        assert!(writes.confirmed(MessageId(1), ONE).is_err());
        writes.stored(MessageId(1), ONE).unwrap();
        writes.confirmed(MessageId(1), ONE).unwrap();
        assert!(writes.confirmed(MessageId(1), TWO).is_err());
        writes.refused(TWO);
        writes.check_refused().unwrap();
        writes.stored(MessageId(2), TWO).unwrap();
        assert!(writes.check_refused().is_err());
    }
}
