//! One page being read: its cluster, its shell, its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use ticketrail_server::WrittenConfig;
use ticketrail_tests::cluster::{Program, Turn, turn};

use super::dev::Dev;
use super::page::{Before, Block, Step};
use super::root;
use super::shape::{Varies, alike};
use super::shell::Shell;
use crate::examples::{prepared, run};
use crate::python;

/// What a reader has of the project at hand.
const COPIED: [&str; 3] = ["examples", "proto", "deploy"];
/// The network of the pages; the test has one of its own for it, on this machine alone.
const SHOWN_NETWORK: &str = "10.0.0.";
/// The data folder of the pages, which each node has on a machine of its own.
const SHOWN_DATA: &str = "/var/lib/ticketrail";
/// A command that does not end by itself is interrupted after so many seconds.
const ENDLESS_SECONDS: u32 = 3;

pub(super) struct Session {
    shell: Shell,
    dev: Dev,
    folder: TempDir,
    network: String,
    /// Where blocks of Python run; none where this machine cannot.
    python: Option<PathBuf>,
    /// What the last of them printed.
    said: Vec<String>,
    files: usize,
    _turn: Turn,
}

impl Session {
    pub(super) async fn start(blocks: impl Iterator<Item = &Block> + Clone) -> Self {
        let turn = turn(false).await;
        let folder = TempDir::new().unwrap();
        for copied in COPIED {
            let from = root().join(copied);
            run(Command::new("cp").arg("-r").arg(from).arg(folder.path())).unwrap();
        }
        let needs_python = blocks
            .clone()
            .any(|block| block.language == "python" || block.text.contains(".venv/"));
        let python = match needs_python {
            true => prepared("the blocks of python in the pages", python::prepare).await,
            false => None,
        };
        if let Some(python) = &python {
            let environment = python.parent().and_then(Path::parent).unwrap();
            let link = folder.path().join("examples/python/.venv");
            std::os::unix::fs::symlink(environment, link).unwrap();
        }
        let programs = folder.path().join("programs");
        fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(Program::Product.path(), programs.join("ticketrail")).unwrap();
        let dev = Dev::start(folder.path(), &[]).await;
        let path = std::env::var("PATH").unwrap_or_default();
        let modules = [python::generated(), folder.path().join("examples/python")];
        let modules = modules.map(|folder| folder.display().to_string());
        let environment = [
            ("PATH", format!("{}:{path}", programs.display())),
            ("PYTHONPATH", modules.join(":")),
            ("TICKETRAIL_ENDPOINTS", dev.endpoints()),
            ("TICKETRAIL_NODES", dev.addresses()),
        ];
        let network: [u8; 2] = [rand::random_range(1..255), rand::random()];
        Self {
            shell: Shell::start(folder.path(), &environment),
            dev,
            folder,
            network: format!("127.{}.{}.", network[0], network[1]),
            python,
            said: Vec::new(),
            files: 0,
            _turn: turn,
        }
    }

    /// Does what a block says; what is wrong with it on an error.
    pub(super) async fn run(&mut self, block: &Block) -> Result<(), String> {
        for before in &block.notes.before {
            match before {
                Before::Press(keys) => self.dev.press(keys).await,
                Before::Command(command) => {
                    let (_, command) = self.command(command, block);
                    let (code, said) = self.shell.run(&command).await?;
                    if code != 0 {
                        return Err(format!("`{command}` before it: {code}: {said:#?}"));
                    }
                }
            }
        }
        let varies = Varies {
            numbers: block.notes.numbers_vary,
            roles: block.notes.roles_vary,
        };
        let lines = || block.text.lines().map(str::to_owned).collect::<Vec<_>>();
        match block.language.as_str() {
            "console" | "sh" => {
                for step in block.steps()? {
                    self.step(&step, block, varies).await?;
                }
                Ok(())
            }
            "python" => self.python(block).await,
            "toml" if block.notes.settings => self.settings(block),
            "text" if block.notes.banner => {
                alike(&lines(), &self.as_shown(&self.dev.banner), varies)
            }
            "text" if block.notes.said => alike(&lines(), &self.said, varies),
            language => Err(format!(
                "nobody knows how to run a block of `{language}`: mark it, see docs/page.rs"
            )),
        }
    }

    async fn step(&mut self, step: &Step, block: &Block, varies: Varies) -> Result<(), String> {
        let (endless, command) = self.command(&step.command, block);
        if command.contains(".venv/") && self.python.is_none() {
            return Ok(());
        }
        let (code, said) = self.shell.run(&command).await?;
        let said = self.as_shown(&said);
        let fails = step
            .output
            .first()
            .is_some_and(|line| line.starts_with("error:"));
        if !endless && fails != (code != 0) {
            return Err(format!("`{command}` ended with {code}: {said:#?}"));
        }
        if step.output.is_empty() {
            return Ok(());
        }
        alike(&step.output, &said, varies).map_err(|why| format!("`{}`: {why}", step.command))
    }

    /// As it is run, and whether it only ends when it is interrupted.
    fn command(&mut self, shown: &str, block: &Block) -> (bool, String) {
        let command = self.as_it_is(shown);
        if command.starts_with("ticketrail serve") {
            // It lives as long as the shell.
            self.files += 1;
            let log = self.folder.path().join(format!("serve-{}.log", self.files));
            let command = command.replacen("ticketrail", "setpriv --pdeathsig KILL ticketrail", 1);
            let command = command.split(" #").next().unwrap_or_default();
            return (false, format!("{command} >{} 2>&1 &", log.display()));
        }
        let endless = block.notes.endless.as_ref();
        match endless.is_some_and(|word| command.contains(word)) {
            true => (true, format!("timeout -s INT {ENDLESS_SECONDS} {command}")),
            false => (false, command),
        }
    }

    async fn python(&mut self, block: &Block) -> Result<(), String> {
        if self.python.is_none() {
            return Ok(());
        }
        self.files += 1;
        let file = self.folder.path().join(format!("block-{}.py", self.files));
        fs::write(&file, self.as_it_is(&block.text)).unwrap();
        let folder = self.folder.path().join("examples/python");
        let command = format!(
            "(cd {} && .venv/bin/python {})",
            folder.display(),
            file.display()
        );
        let (code, said) = self.shell.run(&command).await?;
        self.said = self.as_shown(&said);
        match code {
            0 => Ok(()),
            _ => Err(format!("it ended with {code}: {:#?}", self.said)),
        }
    }

    fn settings(&mut self, block: &Block) -> Result<(), String> {
        self.files += 1;
        let file = self
            .folder
            .path()
            .join(format!("block-{}.toml", self.files));
        fs::write(&file, &block.text).unwrap();
        let read = WrittenConfig::read(&file);
        read.map(drop).map_err(|error| error.to_string())
    }

    fn as_it_is(&self, text: &str) -> String {
        let text = self.dev.as_it_is(text);
        let text = text.replace(SHOWN_NETWORK, &self.network);
        // Machines differ by the number of their node.
        let node = text.split("--node-id ").nth(1).unwrap_or_default();
        let node = node.split_whitespace().next().unwrap_or_default();
        let data = self.folder.path().join(format!("machine-{node}"));
        text.replace(SHOWN_DATA, &data.display().to_string())
    }

    fn as_shown(&self, lines: &[String]) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let shown = lines.iter().map(|line| {
            let line = self.dev.as_shown(line);
            let line = line.replace(&self.network, SHOWN_NETWORK);
            line.replace(&folder, "")
        });
        shown.collect()
    }
}
