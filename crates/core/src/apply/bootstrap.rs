//! `Bootstrap`: fixes what a cluster can never change.

use super::Answer;
use crate::command::Bootstrap;
use crate::digest;
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

impl State {
    pub(super) fn bootstrap(&mut self, command: &Bootstrap) -> Answer {
        let wanted = (command.cluster_id, command.hash_seed);
        match self.bootstrap {
            Some(there) if there == wanted => return Ok(Outcome::Done),
            Some(_) => return Err(Rejection::AlreadyBootstrapped),
            None => {}
        }
        self.bootstrap = Some(wanted);
        self.version = 1;
        self.shared.hash_seed = command.hash_seed;
        self.digest = digest::word(self.digest, command.hash_seed);
        let namespace = limits::DEFAULT_NAMESPACE.into();
        self.namespaces.insert(namespace, Default::default());
        Ok(Outcome::Done)
    }
}
