//! The log of a node: text for people, or JSON for machines, each line with the node that wrote it.

use std::fmt;

use serde_json::{Map, Value};
use ticketrail_server::{LogConfig, LogFormat};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::failure::{Failure, Result};

/// Logs to the standard error from now on.
pub(crate) fn start(config: &LogConfig, node: u64) -> Result {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|error| Failure::Usage(format!("`log.filter`: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(config.format == LogFormat::Text && crate::show::stderr_is_terminal())
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => builder.with_timer(TimeAndNode { node }).try_init(),
        LogFormat::Json => builder.event_format(Json { node }).try_init(),
    };
    started.map_err(|error| Failure::local("logging", error))
}

/// The time and the node: `2026-11-22T21:00:00.000000Z node=1`.
struct TimeAndNode {
    node: u64,
}

impl FormatTime for TimeAndNode {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(writer)?;
        write!(writer, " node={}", self.node)
    }
}

/// One object a line: `timestamp`, `level`, `target`, `node`, `message`, and the event's own fields
/// beside them.
struct Json {
    node: u64,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        // Last, so that no field of an event takes their place.
        let object = &mut fields.0;
        object.insert("timestamp".to_owned(), timestamp.into());
        object.insert("level".to_owned(), metadata.level().as_str().into());
        object.insert("target".to_owned(), metadata.target().into());
        if let Some(other) = object.insert("node".to_owned(), self.node.into()) {
            object.insert("about_node".to_owned(), other);
        }
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}

/// An event's fields, each by its kind.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name().trim_start_matches("r#");
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(json: bool, say: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let builder = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        if json {
            tracing::subscriber::with_default(builder.event_format(Json { node: 7 }).finish(), say);
        } else {
            let timer = TimeAndNode { node: 7 };
            tracing::subscriber::with_default(builder.with_timer(timer).finish(), say);
        }
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn say() {
        let error = io::Error::other("no \"room\"\nleft");
        tracing::warn!(%error, node = 3_u64, free = 1.5, full = true, "the disk is full");
    }

    #[test]
    fn a_json_line_is_one_object_with_the_node_and_typed_fields() {
        let text = log(true, say);
        assert_eq!(text.lines().count(), 1, "{text}");
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["level"], "WARN");
        assert_eq!(found["node"], 7, "the node that writes");
        assert_eq!(found["about_node"], 3);
        assert_eq!(found["message"], "the disk is full");
        assert_eq!(found["error"], "no \"room\"\nleft");
        assert_eq!(
            (&found["free"], &found["full"]),
            (&1.5.into(), &true.into())
        );
        assert!(found["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(found["target"].as_str().unwrap().starts_with("ticketrail"));
    }

    #[test]
    fn a_line_of_text_has_the_node_too() {
        let text = log(false, say);
        assert!(text.contains("Z node=7  WARN ticketrail"), "{text}");
    }
}
