use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use ticketrail_core::NodeId;
use ticketrail_raft::PeerAddress;
use tonic::transport::Uri;

use super::entrance::{Entrance, cluster_id};
use super::overload::{OverloadLimits, overload_limits};
use super::snapshots::Snapshots;
use super::written::{WrittenConfig, WrittenLimits, WrittenLog, WrittenMetrics, WrittenStop};
use crate::limits;

/// What is logged unless said otherwise: what happens to the node, and not each step of a vote.
const LOG_DEFAULT: &str = "info,openraft=warn";

/// A configuration that can start a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// This node.
    pub node: NodeId,
    /// Where clients are served, `host:port`.
    pub listen: String,
    /// Where other nodes are served, `host:port`.
    pub peer_listen: String,
    /// Folder of everything that this node keeps.
    pub data_dir: PathBuf,
    /// Whether server reflection is on.
    pub reflection: bool,
    /// Identity of the cluster, where it was written.
    pub cluster_id: Option<u128>,
    /// How a node with an empty folder comes in.
    pub entrance: Entrance,
    /// Where others reach this node.
    pub address: PeerAddress,
    /// Bounds of what clients may send.
    pub limits: MessageLimits,
    /// Bytes of settled messages that may stay because others in the same file do.
    pub dead_bytes_max: u64,
    /// What is kept for nodes that lag, and how they catch up.
    pub snapshots: Snapshots,
    /// How long calls and streams have to end when the node stops.
    pub stop_timeout: Duration,
    /// How much may be under way.
    pub overload: OverloadLimits,
    /// What watchers are told, and where.
    pub metrics: MetricsConfig,
    /// What is logged, and how; the caller sets it up.
    pub log: LogConfig,
    /// The collector that spans are sent to; none without the feature `otlp`.
    pub otlp_endpoint: Option<String>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines are written: directives of `tracing`'s filter.
    pub filter: String,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What watchers are told, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where `/metrics`, `/healthz` and `/readyz` are served, `host:port`; nowhere if none.
    pub listen: Option<String>,
    /// Queues that have series of their own; all others are summed up.
    pub queues_max: usize,
}

/// Bounds of what clients may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Largest body.
    pub body_bytes_max: usize,
    /// Most messages of a batch.
    pub batch_messages_max: usize,
    /// Most bytes of a batch; at least a body's.
    pub batch_bytes_max: usize,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: limits::BODY_BYTES_DEFAULT,
            batch_messages_max: limits::BATCH_MESSAGES_DEFAULT,
            batch_bytes_max: limits::BATCH_BYTES_DEFAULT,
        }
    }
}

/// Why a configuration cannot start a node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A file cannot be read, or is not what it should be.
    #[error("configuration file `{}`: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A setting is missing.
    #[error("`{0}` is missing: give it as a flag or in the configuration file")]
    Missing(&'static str),
    /// A setting is out of its bounds.
    #[error("`{setting}` must be {must}, not `{found}`")]
    Invalid {
        /// Which.
        setting: &'static str,
        /// What it must be.
        must: String,
        /// What it is.
        found: String,
    },
}

impl WrittenConfig {
    /// Where others reach this node. Told to the cluster by a node that joins, so it must be good then;
    /// of a first member `bootstrap` has told it.
    fn reached_at(
        &self,
        node: NodeId,
        listen: &str,
        peer_listen: &str,
        entrance: &Entrance,
    ) -> Result<PeerAddress, ConfigError> {
        let founded = match entrance {
            Entrance::Bootstrap(bootstrap) => bootstrap.members.get(&node),
            Entrance::Join { .. } | Entrance::None => None,
        };
        let joins = matches!(entrance, Entrance::Join { .. });
        let one = |setting, written: &Option<String>, listen: &str, founded: Option<&String>| {
            let default = founded.map_or(listen, String::as_str);
            let text = address(setting, written.as_deref().unwrap_or(default).to_owned())?;
            if joins && !is_reachable(&text) {
                return Err(invalid(
                    setting,
                    "given, at an address that others reach",
                    text,
                ));
            }
            match founded {
                Some(founded) if text != *founded => Err(invalid(
                    setting,
                    format!("left out, or `{founded}` as in `bootstrap`"),
                    text,
                )),
                _ => Ok(text),
            }
        };
        let (peer, client) = (
            founded.map(|founded| &founded.peer),
            founded.map(|founded| &founded.client),
        );
        Ok(PeerAddress {
            peer: one("peer_advertise", &self.peer_advertise, peer_listen, peer)?,
            client: one("advertise", &self.advertise, listen, client)?,
        })
    }
}

pub(super) fn invalid(
    setting: &'static str,
    must: impl Into<String>,
    found: impl ToString,
) -> ConfigError {
    ConfigError::Invalid {
        setting,
        must: must.into(),
        found: found.to_string(),
    }
}

impl WrittenConfig {
    /// Checks everything and fills the defaults in.
    pub fn validate(self) -> Result<ServerConfig, ConfigError> {
        let node = NodeId(self.node_id.ok_or(ConfigError::Missing("node_id"))?);
        if node.0 == 0 {
            return Err(invalid("node_id", "1 or more", 0));
        }
        let listen = self.listen.clone().ok_or(ConfigError::Missing("listen"))?;
        let listen = address("listen", listen)?;
        let peer_listen = self
            .peer_listen
            .clone()
            .ok_or(ConfigError::Missing("peer_listen"))?;
        let peer_listen = address("peer_listen", peer_listen)?;
        if listen == peer_listen && !listen.ends_with(":0") {
            return Err(invalid(
                "peer_listen",
                "another address than `listen`",
                peer_listen,
            ));
        }
        let cluster_id = self.cluster_id.as_deref().map(cluster_id).transpose()?;
        let entrance = Entrance::validate(&self, node, cluster_id)?;
        let address = self.reached_at(node, &listen, &peer_listen, &entrance)?;
        let messages = message_limits(&self.limits)?;
        let request = limits::request_bytes_max(messages.batch_bytes_max, messages.body_bytes_max);
        Ok(ServerConfig {
            node,
            listen,
            peer_listen,
            data_dir: self.data_dir.ok_or(ConfigError::Missing("data_dir"))?,
            reflection: self.reflection.unwrap_or(true),
            cluster_id,
            entrance,
            address,
            limits: messages,
            overload: overload_limits(&self.limits, request)?,
            dead_bytes_max: dead_bytes_max(self.storage.dead_bytes_max)?,
            snapshots: Snapshots::validate(&self.snapshots)?,
            stop_timeout: stop_timeout(&self.stop)?,
            metrics: metrics(self.metrics)?,
            log: log(self.log)?,
            otlp_endpoint: self.tracing.validate()?,
        })
    }
}

pub(super) fn address(setting: &'static str, text: String) -> Result<String, ConfigError> {
    if is_address(&text) {
        return Ok(text);
    }
    Err(invalid(setting, "`host:port`", text))
}

/// Whether a text is `host:port`.
pub(crate) fn is_address(text: &str) -> bool {
    let Ok(url) = format!("http://{text}").parse::<Uri>() else {
        return false;
    };
    url.authority()
        .is_some_and(|all| all.as_str() == text && !text.contains('@') && all.port_u16().is_some())
}

/// Whether others can reach a node there.
pub(crate) fn is_reachable(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    !["0.0.0.0", "[::]", "*"].contains(&host) && port != "0"
}

fn dead_bytes_max(written: Option<u64>) -> Result<u64, ConfigError> {
    match written {
        None => Ok(limits::DEAD_BYTES_DEFAULT),
        Some(bytes) if bytes >= limits::DEAD_BYTES_LEAST => Ok(bytes),
        Some(bytes) => {
            let must = format!("at least {}", limits::DEAD_BYTES_LEAST);
            Err(invalid("storage.dead_bytes_max", must, bytes))
        }
    }
}

fn log(written: WrittenLog) -> Result<LogConfig, ConfigError> {
    let format = match written.format.as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => return Err(invalid("log.format", "`text` or `json`", other)),
    };
    let filter = written.filter.unwrap_or_else(|| LOG_DEFAULT.to_owned());
    Ok(LogConfig { format, filter })
}

fn metrics(written: WrittenMetrics) -> Result<MetricsConfig, ConfigError> {
    let listen = written.listen.map(|text| address("metrics.listen", text));
    let queues_max = written.queues_max.unwrap_or(limits::METRICS_QUEUES_DEFAULT);
    if queues_max > limits::METRICS_QUEUES_HARD {
        let must = format!("0..{}", limits::METRICS_QUEUES_HARD);
        return Err(invalid("metrics.queues_max", must, queues_max));
    }
    Ok(MetricsConfig {
        listen: listen.transpose()?,
        queues_max,
    })
}

fn message_limits(written: &WrittenLimits) -> Result<MessageLimits, ConfigError> {
    let default = MessageLimits::default();
    let within = |setting, value: Option<usize>, default: usize, hard: usize| match value {
        None => Ok(default),
        Some(value) if (1..=hard).contains(&value) => Ok(value),
        Some(value) => Err(invalid(setting, format!("1..{hard}"), value)),
    };
    let body_bytes_max = within(
        "limits.body_bytes_max",
        written.body_bytes_max,
        default.body_bytes_max,
        limits::BODY_BYTES_HARD,
    )?;
    let batch_messages_max = within(
        "limits.batch_messages_max",
        written.batch_messages_max,
        default.batch_messages_max,
        limits::BATCH_MESSAGES_HARD,
    )?;
    let batch_bytes_max = within(
        "limits.batch_bytes_max",
        written.batch_bytes_max,
        default.batch_bytes_max.max(body_bytes_max),
        limits::BATCH_BYTES_HARD,
    )?;
    if batch_bytes_max < body_bytes_max {
        let must = format!("at least `limits.body_bytes_max`, {body_bytes_max}");
        return Err(invalid("limits.batch_bytes_max", must, batch_bytes_max));
    }
    Ok(MessageLimits {
        body_bytes_max,
        batch_messages_max,
        batch_bytes_max,
    })
}

fn stop_timeout(written: &WrittenStop) -> Result<Duration, ConfigError> {
    let Some(timeout_ms) = written.timeout_ms else {
        return Ok(limits::STOP_WAIT_DEFAULT);
    };
    let timeout = Duration::from_millis(timeout_ms);
    let (min, max) = (limits::STOP_WAIT_MIN, limits::STOP_WAIT_HARD);
    if !(min..=max).contains(&timeout) {
        let must = format!("{}..{} (milliseconds)", min.as_millis(), max.as_millis());
        return Err(invalid("stop.timeout_ms", must, timeout_ms));
    }
    Ok(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        node_id = 2
        listen = "127.0.0.1:7401"
        peer_listen = "127.0.0.1:7501"
        data_dir = "data"
        reflection = false
        bootstrap = "2=b:7501@b:7401, 1=a:7500@a:7400,3=c:7502@c:7402"
        cluster_id = "0123456789abcdef0123456789abcdef"
        [limits]
        body_bytes_max = 2097152
    "#;

    fn parse(text: &str) -> WrittenConfig {
        WrittenConfig::parse(text).unwrap()
    }

    #[test]
    fn a_full_file_is_understood() {
        let config = parse(FULL).validate().unwrap();
        assert_eq!(config.node, NodeId(2));
        assert!(!config.reflection);
        assert_eq!(config.limits.body_bytes_max, 2 << 20);
        assert_eq!(config.limits.batch_bytes_max, 4 << 20);
        let Entrance::Bootstrap(bootstrap) = config.entrance else {
            panic!("{:?}", config.entrance)
        };
        assert_eq!(
            bootstrap.cluster_id,
            0x0123_4567_89ab_cdef_0123_4567_89ab_cdef
        );
        assert_eq!(config.cluster_id, Some(bootstrap.cluster_id));
        assert_eq!(bootstrap.members[&NodeId(1)].peer, "a:7500");
    }

    #[test]
    fn an_unknown_key_is_an_error_and_named() {
        for text in [
            "nodeid = 1",
            "[limits]\nbody = 1",
            "[storage]\ndead = 1",
            "[metrics]\nport = 1",
        ] {
            let why = WrittenConfig::parse(text).unwrap_err();
            assert!(why.contains("unknown field"), "{why}");
        }
    }

    #[test]
    fn flags_come_before_the_file() {
        let flags = WrittenConfig {
            listen: Some("x:1".to_owned()),
            ..WrittenConfig::default()
        };
        let config = flags.or(parse(FULL)).validate().unwrap();
        assert_eq!((config.listen.as_str(), config.node), ("x:1", NodeId(2)));
    }

    #[test]
    fn each_wrong_setting_is_named() {
        let change = |change: fn(&mut WrittenConfig)| {
            let mut written = parse(FULL);
            change(&mut written);
            written.validate().unwrap_err().to_string()
        };
        type Change = fn(&mut WrittenConfig);
        let table: &[(Change, &str)] = &[
            (|w| w.node_id = None, "`node_id` is missing"),
            (
                |w| w.storage.dead_bytes_max = Some(1),
                "`storage.dead_bytes_max` must be at least 67108864",
            ),
            (|w| w.node_id = Some(0), "`node_id` must be 1 or more"),
            (
                |w| w.node_id = Some(9),
                "`bootstrap` must be a list with this node, 9",
            ),
            (|w| w.listen = None, "`listen` is missing"),
            (
                |w| w.listen = Some("7400".into()),
                "`listen` must be `host:port`",
            ),
            (
                |w| w.listen = Some("a:70000".into()),
                "`listen` must be `host:port`",
            ),
            (
                |w| w.peer_listen = w.listen.clone(),
                "`peer_listen` must be another address",
            ),
            (|w| w.data_dir = None, "`data_dir` is missing"),
            (
                |w| w.limits.body_bytes_max = Some(17 << 20),
                "`limits.body_bytes_max` must be 1..16777216",
            ),
            (
                |w| w.limits.batch_messages_max = Some(1_001),
                "`limits.batch_messages_max` must be 1..1000",
            ),
            (
                |w| w.limits.batch_bytes_max = Some(1 << 20),
                "`limits.batch_bytes_max` must be at least",
            ),
            (
                |w| w.join = Some("a:1".into()),
                "`join` must be without `bootstrap`",
            ),
            (
                |w| {
                    w.bootstrap = None;
                    w.join = Some("a".into());
                },
                "`join` must be a list of `host:port`",
            ),
            (
                |w| {
                    w.bootstrap = None;
                    w.join = Some("a:1".into());
                    w.listen = Some("0.0.0.0:7400".into());
                },
                "`advertise` must be given",
            ),
            (
                |w| w.advertise = Some("elsewhere:7400".into()),
                "`advertise` must be left out, or `b:7401` as in `bootstrap`",
            ),
            (
                |w| w.peer_advertise = Some("b:7401".into()),
                "`peer_advertise` must be left out, or `b:7501` as in `bootstrap`",
            ),
            (
                |w| w.stop.timeout_ms = Some(999),
                "`stop.timeout_ms` must be 1000..600000",
            ),
            (|w| w.learner = Some(true), "`join` is missing"),
            (
                |w| w.log.format = Some("xml".into()),
                "`log.format` must be `text` or `json`",
            ),
            (
                |w| w.metrics.listen = Some("7600".into()),
                "`metrics.listen` must be `host:port`",
            ),
            (
                |w| w.metrics.queues_max = Some(20_001),
                "`metrics.queues_max` must be 0..20000",
            ),
            (
                |w| w.cluster_id = Some("ab".into()),
                "`cluster_id` must be 32",
            ),
            (
                |w| w.cluster_id = Some("0".repeat(32)),
                "`cluster_id` must be 32",
            ),
            (
                |w| w.bootstrap = Some("2=b:1".into()),
                "`bootstrap` must be a list of `ID=PEER",
            ),
            (
                |w| w.bootstrap = Some("0=b:1@b:2".into()),
                "`bootstrap` must be a list of `ID=PEER",
            ),
            (
                |w| w.bootstrap = Some("2=b:1@b:2,2=a:1@a:2".into()),
                "each id once",
            ),
        ];
        for (wrong, expected) in table {
            let found = change(*wrong);
            assert!(
                found.contains(expected),
                "expected `{expected}`, found `{found}`"
            );
        }
    }
}
