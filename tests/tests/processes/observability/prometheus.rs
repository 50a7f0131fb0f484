//! A Prometheus of this test's own, from the machine's package, with the shipped rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use ticketrail_tests::cluster::{ports, secs, until};

use super::http;

/// A running Prometheus that looks every second.
pub(super) struct Prometheus {
    process: Child,
    address: String,
    folder: TempDir,
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .map_err(|error| format!("{shown}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{shown}: {said}{errors}")),
    }
}

impl Prometheus {
    /// `Err`: there is none on this machine.
    pub(super) async fn start(targets: impl Iterator<Item = &String>) -> Result<Self, String> {
        run(Command::new("prometheus").arg("--version"))?;
        run(Command::new("promtool").arg("--version"))?;
        let folder = tempfile::tempdir().unwrap();
        let targets: Vec<_> = targets.map(|target| format!("'{target}'")).collect();
        let config = fs::read_to_string(deploy("prometheus/prometheus.yml")).unwrap();
        // The shipped file, with this cluster's targets and a faster pace.
        let (before, _) = config.split_once("          - 10.0.0.1").unwrap();
        let before = before
            .replace("15s", "1s")
            .replace("- targets:\n", "- targets: ");
        let config = format!("{before}[{}]\n", targets.join(","));
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        // And the shipped rules; that they wait is in their own tests.
        let rules = fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
        let at_once = |line: &str| match line.split_once("for: ") {
            Some((before, _)) => format!("{before}for: 0s\n"),
            None => format!("{line}\n"),
        };
        let rules: String = rules.lines().map(at_once).collect();
        fs::write(folder.path().join("alerts.yml"), rules).unwrap();
        let address = format!("127.0.0.1:{}", ports::free());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--web.listen-address={address}"))
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let prometheus = Self {
            process,
            address,
            folder,
        };
        until("Prometheus", secs(30), async || {
            match http::get(&prometheus.address, "/-/ready").await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err((other.map(|answer| answer.status), prometheus.log())),
            }
        })
        .await;
        Ok(prometheus)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(super) async fn shipped_rules_pass_their_tests(&self) {
        let folder = deploy("prometheus");
        for arguments in [
            ["check", "rules", "alerts.yml"],
            ["test", "rules", "alerts.test.yml"],
            ["check", "config", "prometheus.yml"],
        ] {
            let mut promtool = Command::new("promtool");
            run(promtool.args(arguments).current_dir(&folder)).unwrap();
        }
    }

    async fn api(&self, path: &str) -> Result<Value, String> {
        let answer = http::get(&self.address, &format!("/api/v1/{path}")).await?;
        let found: Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
        match found["status"] == "success" {
            true => Ok(found["data"].clone()),
            false => Err(format!("{path}: {found}")),
        }
    }

    /// What an expression gives now.
    async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let path = format!("query?query={}", http::encoded(expression));
        let data = self.api(&path).await?;
        let result = data["result"].as_array().cloned();
        result.ok_or_else(|| format!("{expression}: {data}"))
    }

    async fn number(&self, expression: &str) -> Result<f64, String> {
        let found = self.query(expression).await?;
        let value = found.first().and_then(|first| first["value"][1].as_str());
        value
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("{expression}: {found:?}"))
    }

    pub(super) async fn reaches(&self, expression: &str, expected: f64) {
        until(expression, secs(20), async || {
            match self.number(expression).await {
                Ok(found) if found == expected => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    pub(super) async fn reaches_at_least(&self, expression: &str, expected: f64) {
        until(expression, secs(20), async || {
            match self.number(expression).await {
                Ok(found) if found >= expected => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// The alert fires, with this label.
    pub(super) async fn fires(&self, alert: &str, label: &str, value: &str) {
        until(alert, secs(20), async || {
            let data = self.api("alerts").await?;
            let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
            let fires = |found: &&Value| {
                found["labels"]["alertname"] == alert
                    && found["labels"][label] == value
                    && found["state"] == "firing"
            };
            match alerts.iter().filter(fires).count() {
                1 => Ok(()),
                count => Err(format!("{count} of {alerts:?}")),
            }
        })
        .await;
    }

    /// Every expression of the dashboard is understood and gives something.
    pub(super) async fn dashboard_shows_data_everywhere(&self) {
        let text = fs::read_to_string(deploy("grafana/ticketrail.json")).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels
            .iter()
            .filter_map(|panel| Some((panel["title"].as_str()?, panel["targets"].as_array()?)));
        let mut asked = 0;
        for (title, targets) in targets {
            for target in targets {
                let expression = filled_in(target["expr"].as_str().unwrap());
                until(
                    &format!("data for `{title}`"),
                    secs(20),
                    async || match self.query(&expression).await {
                        Ok(found) if !found.is_empty() => Ok(()),
                        other => Err((expression.clone(), other)),
                    },
                )
                .await;
                asked += 1;
            }
        }
        assert!(asked > 40, "the dashboard has {asked} expressions only");
        let annotation = dashboard["annotations"]["list"][0]["expr"]
            .as_str()
            .unwrap();
        self.query(&filled_in(annotation)).await.unwrap();
    }
}

/// As Grafana would fill the variables of the dashboard in.
fn filled_in(expression: &str) -> String {
    let filled = expression
        .replace("$__rate_interval", "10s")
        .replace("$job", "ticketrail")
        .replace("$namespace", ".*")
        .replace("$queue", ".*");
    assert!(!filled.contains('$'), "{filled}");
    filled
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
