//! `DeleteNamespace`.

use super::{Answer, check};
use crate::command::DeleteNamespace;
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

impl State {
    pub(super) fn delete_namespace(&mut self, command: &DeleteNamespace) -> Answer {
        let name = &command.namespace;
        check(
            name != limits::DEFAULT_NAMESPACE,
            "namespace",
            "not be `default`, which is always there",
        )?;
        let Some(namespace) = self.namespaces.get_unmarked(name) else {
            return Err(Rejection::NamespaceNotFound {
                namespace: name.clone(),
            });
        };
        if !namespace.queues.is_empty() {
            return Err(Rejection::NamespaceNotEmpty {
                queues: namespace.queues.len() as u64,
            });
        }
        for producer in core::mem::take(&mut namespace.producers) {
            self.forget_producer(producer);
        }
        self.namespaces.remove(name);
        Ok(Outcome::Done)
    }
}
