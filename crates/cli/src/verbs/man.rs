//! Manual pages, one for each verb.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use crate::args::Arguments;
use crate::failure::{Failure, Result};

pub(super) fn run(folder: &Path) -> Result {
    let write = || {
        fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Arguments::command(), folder)
    };
    write().map_err(|error| Failure::local(folder.display(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_has_its_page() {
        let folder = tempfile::tempdir().unwrap();
        run(&folder.path().join("man")).unwrap();
        for (page, word) in [
            ("ticketrail.1", "subcommand"),
            ("ticketrail-publish.1", "idempotent"),
            ("ticketrail-queue-create.1", "dead\\-letter"),
            ("ticketrail-bench-e2e.1", "producers"),
        ] {
            let text = fs::read_to_string(folder.path().join("man").join(page)).unwrap();
            assert!(text.to_lowercase().contains(word), "{page}: {text}");
        }
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(run(&file).unwrap_err().exit_code(), 5);
    }
}
