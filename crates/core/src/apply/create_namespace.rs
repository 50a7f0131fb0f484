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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;

    fn command(name: &str) -> Command {
        Command::CreateNamespace(CreateNamespace {
            namespace: name.into(),
        })
    }

    #[test]
    fn is_done_again_without_effect() {
        let mut script = Script::new();
        assert_eq!(script.run(command("team/a")), Outcome::Done);
        assert_eq!(script.run(command("team/a")), Outcome::Done);
        assert!(script.state.has_namespace("team/a"));
    }

    #[test]
    fn bad_names_are_refused() {
        let mut script = Script::new();
        let long = "x".repeat(256);
        for name in ["", "tr.internal", "a\nb", "a\u{85}b", long.as_str()] {
            let rejection = script.refused(command(name));
            let field = "namespace";
            assert!(matches!(rejection, Rejection::InvalidName { field: f, .. } if f == field));
        }
        let longest = "x".repeat(255);
        assert_eq!(script.run(command(&longest)), Outcome::Done);
    }
}
