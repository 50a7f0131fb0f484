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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;

    fn command(name: &str) -> Command {
        Command::DeleteNamespace(DeleteNamespace {
            namespace: name.into(),
        })
    }

    fn in_namespace(namespace: &str) -> (Command, Command) {
        let queue = crate::command::CreateQueue {
            namespace: namespace.into(),
            queue: "q".into(),
            settings: QueueSettings::default(),
        };
        let producer = crate::command::OpenProducer {
            namespace: namespace.into(),
            name: Some("p".into()),
            fresh_id: ProducerId(1),
        };
        (Command::CreateQueue(queue), Command::OpenProducer(producer))
    }

    #[test]
    fn only_an_empty_one_goes_and_its_producers_with_it() {
        let mut script = Script::new();
        let create = crate::command::CreateNamespace {
            namespace: "n".into(),
        };
        script.run(Command::CreateNamespace(create));
        let (queue, producer) = in_namespace("n");
        script.run(queue);
        script.run(producer);
        let busy = Rejection::NamespaceNotEmpty { queues: 1 };
        assert_eq!(script.refused(command("n")), busy);
        script.run(Command::DeleteQueue(crate::command::DeleteQueue {
            namespace: "n".into(),
            queue: "q".into(),
            if_empty: true,
        }));
        assert_eq!(script.state.producers(), 1);
        assert_eq!(script.run(command("n")), Outcome::Done);
        assert_eq!(script.state.producers(), 0);
        let gone = Rejection::NamespaceNotFound {
            namespace: "n".into(),
        };
        assert_eq!(script.refused(command("n")), gone);
        let (queue, producer) = in_namespace("n");
        assert_eq!(script.refused(queue), gone);
        assert_eq!(script.refused(producer), gone);
    }

    #[test]
    fn the_default_stays() {
        let rejection = Script::new().refused(command("default"));
        assert!(matches!(
            rejection,
            Rejection::InvalidField {
                field: "namespace",
                ..
            }
        ));
    }
}
