//! The Docker engine of this machine: what it can do, and images around the program that cargo built.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ticketrail_tests::cluster::{Program, secs};
use tokio::process::Command;

/// For what asks the engine one thing.
pub(super) const SHORT: Duration = secs(30);
/// For what writes images.
const BUILD: Duration = secs(300);
/// For the base image, which comes from a mirror of Debian.
const BASE: Duration = secs(420);

/// Whether an engine answers here.
pub(super) async fn answers() -> Result<(), String> {
    let mut ask = docker();
    ask.args(["version", "--format", "{{.Server.Version}}"]);
    run(&mut ask, SHORT).await.map(drop)
}

/// How compose is called here: as a command of docker's, or as a program of its own.
pub(super) async fn compose() -> Result<Vec<&'static str>, String> {
    let ways = [vec!["docker", "compose"], vec!["docker-compose"]];
    let mut why = Vec::new();
    for way in ways {
        let mut ask = Command::new(way[0]);
        ask.args(&way[1..]).arg("version");
        match run(&mut ask, SHORT).await {
            Ok(_) => return Ok(way),
            Err(error) => why.push(error),
        }
    }
    Err(format!("compose is missing: {}", why.join("; ")))
}

/// The tag of a base image with this machine's libc; made if it is not there.
pub(super) async fn base() -> Result<String, String> {
    let tag = run(&mut Command::new(deploy("base-image.sh")), BASE).await?;
    Ok(tag.trim().to_owned())
}

/// Makes images around the program that cargo built, which differ in their version; they are removed when dropped.
pub(super) struct Images {
    tags: Vec<String>,
}

impl Images {
    pub(super) async fn build(base: &str, name: &str, versions: &[&str]) -> Result<Self, String> {
        let context = tempfile::tempdir().map_err(|error| error.to_string())?;
        let program = tokio::task::spawn_blocking(|| Program::Product.path());
        let program = program.await.map_err(|error| error.to_string())?;
        let mut strip = Command::new("strip");
        strip.args(["--strip-debug", "-o"]);
        strip.arg(context.path().join("ticketrail")).arg(program);
        run(&mut strip, SHORT).await?;
        let mut images = Self { tags: Vec::new() };
        for version in versions {
            let tag = format!("{name}:{version}");
            let mut build = docker();
            build.args(["build", "--quiet", "--tag", &tag]);
            for argument in [
                format!("RUN_BASE={base}"),
                format!("BUILD_BASE={base}"),
                format!("VERSION={version}"),
            ] {
                build.args(["--build-arg", &argument]);
            }
            build.arg("--file").arg(deploy("Dockerfile"));
            run(build.arg(context.path()), BUILD).await?;
            images.tags.push(tag);
        }
        Ok(images)
    }

    pub(super) fn tag(&self, index: usize) -> &str {
        &self.tags[index]
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let mut remove = std::process::Command::new("timeout");
        remove.args(["60", "docker", "rmi"]);
        let _ = remove.args(&self.tags).output();
    }
}

/// A file of the folder `deploy`.
pub(super) fn deploy(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../deploy").join(path);
    fs::canonicalize(&path).unwrap_or(path)
}

pub(super) fn docker() -> Command {
    Command::new("docker")
}

/// What a command wrote to its standard output, if it ended well within a time.
pub(super) async fn run(command: &mut Command, within: Duration) -> Result<String, String> {
    let shown = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(within, output)
        .await
        .map_err(|_| format!("{shown}: not done within {within:?}"))?
        .map_err(|error| format!("{shown}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{shown}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
