//! `CreateNamespace`.

use super::{Answer, check_name};
use crate::command::CreateNamespace;
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

impl State {
    pub(super) fn create_namespace(&mut self, command: &CreateNamespace) -> Answer {
        check_name("namespace", &command.namespace)?;
        if self.has_namespace(&command.namespace) {
            return Ok(Outcome::Done);
        }
        if self.namespaces.len() >= limits::NAMESPACES_MAX {
            return Err(Rejection::TooMany {
                what: "namespaces",
                limit: limits::NAMESPACES_MAX as u64,
            });
        }
        let name = command.namespace.clone();
        self.namespaces.insert(name, Default::default());
        Ok(Outcome::Done)
    }
}
