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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn command(cluster_id: u128) -> Command {
        Command::Bootstrap(Bootstrap {
            cluster_id,
            hash_seed: SEED,
        })
    }

    #[test]
    fn happens_once() {
        let mut script = Script::empty();
        assert_eq!(script.refused(publish("q", 1)), Rejection::NotBootstrapped);
        assert_eq!(script.state.cluster_id(), None);
        assert_eq!(script.run(command(7)), Outcome::Done);
        assert_eq!(script.run(command(7)), Outcome::Done);
        assert_eq!(script.refused(command(8)), Rejection::AlreadyBootstrapped);
        assert_eq!(script.state.cluster_id(), Some(7));
        assert_eq!(script.state.version(), 1);
        let names: vec::Vec<&str> = script.state.namespaces().collect();
        assert_eq!(names, vec!["default"]);
    }
}
