//! A client generated from the protos in another language, with no library of ours in between.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::program::profile_folder;
use ticketrail_tests::cluster::{Cluster, secs, until};
use tokio::process::Command as AsyncCommand;
use tokio::time::timeout;

use crate::examples::{prepared, run};

const MESSAGES: u64 = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_survives_a_leader_kill() {
    let Some(python) = prepared("the python client", prepare).await else {
        return;
    };
    let cluster = Cluster::start().await;
    cluster.queue("from-python").create().await;
    // The client starts on the node that will die.
    let victim = cluster.leader().await;
    let mut ids = cluster.ids();
    ids.sort_by_key(|id| *id != victim);
    let addresses: Vec<_> = ids.iter().map(|id| cluster.address(*id)).collect();
    let addresses = addresses.join(",");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let client = AsyncCommand::new(&python)
        .arg(root.join("python/client.py"))
        .args([
            "--endpoints",
            &addresses,
            "--queue",
            "from-python",
            "--messages",
            &MESSAGES.to_string(),
        ])
        .arg("--service-config")
        .arg(root.join("../proto/retry-service-config.json"))
        .env("PYTHONPATH", generated())
        .kill_on_drop(true)
        .output();
    let client = tokio::spawn(client);

    until("a third of the messages", secs(40), async || {
        let stats = cluster.stats("from-python").await;
        if stats.published >= MESSAGES / 3 {
            Ok(())
        } else {
            Err(stats)
        }
    })
    .await;
    cluster.kill(victim);
    cluster.restart(victim).await;
    let output = timeout(secs(45), client)
        .await
        .expect("the client ends")
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{}\n{}",
        said,
        String::from_utf8_lossy(&output.stderr)
    );
    let stats = cluster.stats("from-python").await;
    assert_eq!(
        (stats.published, stats.acknowledged, stats.ready),
        (MESSAGES, MESSAGES, 0)
    );
    conserved("from-python", &stats);
    agreed(&cluster).await;
}

/// Where the generated code is.
pub(crate) fn generated() -> PathBuf {
    profile_folder().join("python/generated")
}

/// Makes a virtual environment with the generated code, once; says where its python is.
pub(crate) fn prepare() -> Result<PathBuf, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PYTHON.get_or_init(prepare_once).clone()
}

fn prepare_once() -> Result<PathBuf, String> {
    let python = environment("python", "examples/python/requirements.txt")?;
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    std::fs::create_dir_all(generated()).map_err(|error| error.to_string())?;
    let mut protoc = Command::new(&python);
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(&protos);
    protoc.arg(format!("--python_out={0}", generated().display()));
    protoc.arg(format!("--grpc_python_out={0}", generated().display()));
    let folder =
        std::fs::read_dir(protos.join("ticketrail/v1")).map_err(|error| error.to_string())?;
    for file in folder.filter_map(Result::ok) {
        protoc.arg(Path::new("ticketrail/v1").join(file.file_name()));
    }
    run(&mut protoc)?;
    Ok(python)
}

/// Makes a virtual environment beside the programs with what a file of the sources lists, unless that is installed in it
/// already; says where its python is.
pub(crate) fn environment(name: &str, requirements: &str) -> Result<PathBuf, String> {
    let home = profile_folder().join(name);
    let python = home.join("venv/bin/python");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    // What is installed, written when it is.
    let installed = home.join("requirements.txt");
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(requirements);
    if read(&installed) != read(&requirements) {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(home.join("venv")))?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "-r"])
            .arg(&requirements))?;
        std::fs::copy(&requirements, &installed).map_err(|error| error.to_string())?;
    }
    Ok(python)
}
