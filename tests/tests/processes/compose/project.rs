//! The cluster of `deploy/compose.yaml`, under a project name of its own and on free ports.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ticketrail_client::{Client, ClientOptions, HealthOf};
use ticketrail_tests::cluster::{NodeId, ports, secs, until};
use tokio::process::Command;

use super::engine::{SHORT, deploy, docker, run};

/// For what waits for containers to start or to stop: above the grace period of a stop.
const STEP: Duration = secs(120);

const NODES: [NodeId; 3] = [1, 2, 3];

/// Gone, with its volumes, when dropped.
pub(super) struct Project {
    /// How compose is called.
    compose: Vec<&'static str>,
    name: String,
    environment: BTreeMap<String, String>,
    ports: BTreeMap<NodeId, u16>,
}

impl Project {
    pub(super) fn new(compose: Vec<&'static str>, name: &str, image: &str) -> Self {
        let ports: BTreeMap<_, _> = NODES.into_iter().map(|id| (id, ports::free())).collect();
        let port =
            |(id, port): (&NodeId, &u16)| (format!("TICKETRAIL_PORT_{id}"), port.to_string());
        let mut environment: BTreeMap<_, _> = ports.iter().map(port).collect();
        environment.insert("TICKETRAIL_IMAGE".to_owned(), image.to_owned());
        Self {
            compose,
            name: name.to_owned(),
            environment,
            ports,
        }
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        NODES.to_vec()
    }

    /// Where a client outside reaches a node.
    pub(super) fn url(&self, id: NodeId) -> String {
        format!("http://127.0.0.1:{}", self.ports[&id])
    }

    pub(super) fn urls(&self) -> Vec<String> {
        NODES.into_iter().map(|id| self.url(id)).collect()
    }

    /// A client of one node, which asks no other.
    pub(super) fn client(&self, id: NodeId) -> Client {
        let options = ClientOptions::new().timeout(secs(10));
        options.connect_lazy([self.url(id)]).unwrap()
    }

    async fn compose(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.compose[0]);
        command.args(self.arguments()).args(arguments);
        command.envs(&self.environment);
        // What the user of this machine has set is of another cluster.
        command
            .env_remove("TICKETRAIL_HOST")
            .env_remove("TICKETRAIL_BIND");
        run(&mut command, STEP).await.unwrap()
    }

    /// All but the program's name and the verb.
    fn arguments(&self) -> Vec<String> {
        let mut all: Vec<_> = self.compose[1..]
            .iter()
            .map(|&one| one.to_owned())
            .collect();
        let file = deploy("compose.yaml").display().to_string();
        all.extend(["--project-name", &self.name, "--file", &file].map(str::to_owned));
        all
    }

    /// Creates and starts all containers.
    pub(super) async fn up(&self) {
        self.compose(&["up", "--detach", "--no-build"]).await;
    }

    /// The image for what is started from now on.
    pub(super) fn set_image(&mut self, image: &str) {
        let name = "TICKETRAIL_IMAGE".to_owned();
        self.environment.insert(name, image.to_owned());
    }

    /// Stops one node and starts it from the image of now.
    pub(super) async fn replace(&self, id: NodeId) {
        let service = service(id);
        self.compose(&["up", "--detach", "--no-build", "--no-deps", &service])
            .await;
    }

    pub(super) async fn kill(&self, id: NodeId) {
        let container = self.container(id).await;
        let mut kill = docker();
        run(kill.args(["kill", &container]), SHORT).await.unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(super) async fn stop(&self, id: NodeId) {
        self.compose(&["stop", &service(id)]).await;
    }

    pub(super) async fn start(&self, id: NodeId) {
        self.compose(&["start", &service(id)]).await;
    }

    async fn container(&self, id: NodeId) -> String {
        // Also one that does not run.
        let mut list = docker();
        list.args(["ps", "--all", "--quiet", "--no-trunc"]);
        list.args(["--filter", &self.label()]);
        let service = format!("label=com.docker.compose.service={}", service(id));
        let found = run(list.args(["--filter", &service]), SHORT).await.unwrap();
        let found = found.trim().to_owned();
        assert!(
            !found.is_empty() && !found.contains('\n'),
            "one container of node {id}, not `{found}`"
        );
        found
    }

    fn label(&self) -> String {
        format!("label=com.docker.compose.project={}", self.name)
    }

    async fn inspect(&self, id: NodeId, format: &str) -> String {
        let container = self.container(id).await;
        let mut inspect = docker();
        inspect.args(["inspect", "--format", format, &container]);
        run(&mut inspect, SHORT).await.unwrap().trim().to_owned()
    }

    /// The version that the image of a node's container says.
    pub(super) async fn version(&self, id: NodeId) -> String {
        let label = r#"{{index .Config.Labels "org.opencontainers.image.version"}}"#;
        self.inspect(id, label).await
    }

    /// Waits until a node says that it is ready.
    pub(super) async fn ready(&self, id: NodeId) {
        let client = self.client(id);
        let what = format!("node {id} to be ready");
        until(&what, secs(60), async || {
            match client.health(HealthOf::Readiness).await {
                Ok(true) => Ok(()),
                Ok(false) => Err("not ready".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Waits until the engine, too, has found that a node is ready.
    pub(super) async fn healthy(&self, id: NodeId) {
        let what = format!("the container of node {id} to be healthy");
        until(&what, secs(60), async || {
            match self.inspect(id, "{{.State.Health.Status}}").await {
                status if status == "healthy" => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// How containers have ended since this instant. The engine remembers the last 256 events only: ask soon.
    pub(super) async fn ends_since(&self, began: SystemTime) -> Vec<(NodeId, i32)> {
        let mut events = docker();
        events.args(["events", "--filter", "event=die"]);
        events.args(["--filter", &self.label()]);
        events.args(["--since", &timestamp(began)]);
        events.args(["--until", &timestamp(SystemTime::now())]);
        let service = r#"{{index .Actor.Attributes "com.docker.compose.service"}}"#;
        let format = format!("{service} {{{{.Actor.Attributes.exitCode}}}}");
        let said = run(events.args(["--format", &format]), SHORT).await;
        let end = |line: &str| {
            let (service, code) = line.split_once(' ')?;
            let id = service.strip_prefix("node-")?.parse().ok()?;
            Some((id, code.parse().ok()?))
        };
        let said = said.unwrap();
        said.lines().map(|line| end(line).unwrap()).collect()
    }

    /// Brings everything down; nothing of the project is left.
    pub(super) async fn down(&self) {
        self.compose(&["down", "--volumes"]).await;
        for what in ["container", "volume", "network"] {
            let mut list = docker();
            list.args([what, "ls", "--quiet", "--filter", &self.label()]);
            assert_eq!(run(&mut list, SHORT).await.unwrap(), "", "{what}s are left");
        }
    }

    /// Compose, with a bound that holds without a runtime.
    fn at_the_end(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = std::process::Command::new("timeout");
        command.args(["60", self.compose[0]]).args(self.arguments());
        command.args(arguments).envs(&self.environment);
        command
            .output()
            .map_or_else(|_| Vec::new(), |done| done.stdout)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.at_the_end(&["logs", "--no-color", "--tail", "40"]);
            eprintln!("--- end of the logs ---\n{}", String::from_utf8_lossy(&log));
        }
        self.at_the_end(&["down", "--volumes", "--timeout", "0"]);
    }
}

fn service(id: NodeId) -> String {
    format!("node-{id}")
}

/// As the engine reads it.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}
