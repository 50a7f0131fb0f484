//! Completion scripts.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Arguments;
use crate::failure::Result;

pub(super) fn run(shell: Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ticketrail", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}
