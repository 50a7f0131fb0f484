//! The reference of all settings, `docs/configuration.md`: made from the sources of the configuration and from
//! `ticketrail serve --help`, and held to what the program takes and fills in.
//!
//! `TICKETRAIL_WRITE_FIXTURES=1 cargo test --workspace --test processes settings` writes the page anew.

mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use ticketrail_server::{ConfigError, ServerConfig, WrittenConfig};
use ticketrail_tests::cluster::Program;

use self::source::{Setting, settings};

const PAGE: &str = "docs/configuration.md";
const EXAMPLE: &str = "deploy/ticketrail.example.toml";
const BEGIN: &str = "<!-- settings: begin -->\n";
const END: &str = "<!-- settings: end -->";
/// Flags of `serve` that are no settings of a node.
const NO_SETTINGS: [&str; 7] = [
    "--config",
    "--endpoints",
    "--help",
    "--namespace",
    "--output",
    "--timeout",
    "--version",
];
/// So much memory that no default is lowered for the lack of it.
const MUCH_MEMORY: &str = "memory_bytes_max = 1099511627776";

#[test]
fn the_settings_in_the_pages_are_those_of_the_program() {
    let page = root().join(PAGE);
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("a place for the settings");
    let (_, after) = rest.split_once(END).expect("its end");
    let made = format!(
        "{before}{BEGIN}{}{END}{after}",
        tables(&settings(), &flags())
    );
    if std::env::var_os("TICKETRAIL_WRITE_FIXTURES").is_some() {
        return fs::write(page, made).unwrap();
    }
    assert!(
        made == text,
        "{PAGE} is stale: see the top of this test's file"
    );
}

#[test]
fn the_settings_have_the_defaults_and_bounds_that_the_pages_say() {
    let config = validated("", "").expect("what must be said is said");
    let mut defaults = defaults(&config);
    let mut bounded = 0;
    for setting in settings() {
        let key = setting.key();
        let said = setting.default.trim_matches('`').to_owned();
        if let Some(found) = defaults.remove(key.as_str()) {
            let same = number(&said)
                .map(|number| number.to_string())
                .unwrap_or(said);
            assert_eq!(same, found, "the default of {key}");
        } else {
            assert!(number(&said).is_none(), "{key}: no test knows this default");
        }
        let (least, most) = bounds(&setting.bounds);
        if let Some(least) = least {
            bounded += 1;
            takes(&setting, least).unwrap();
            least
                .checked_sub(1)
                .map(|less| takes(&setting, less).unwrap_err());
        }
        if let Some(most) = most {
            takes(&setting, most).unwrap();
            takes(&setting, most + 1).unwrap_err();
        }
    }
    assert!(
        defaults.is_empty(),
        "settings that no page has: {defaults:?}"
    );
    assert!(bounded >= 18, "only {bounded}");
}

#[test]
fn the_example_has_every_setting_with_its_default_and_an_explanation() {
    let text = fs::read_to_string(root().join(EXAMPLE)).unwrap();
    let config = validated("", "").unwrap();
    let defaults = defaults(&config);
    let mut section = String::new();
    let mut explained = false;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let bare = line.trim_start_matches("# ");
        if let Some(name) = bare
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = format!("{name}.");
        } else if let Some((key, value)) = bare.split_once(" = ").filter(|(key, _)| is_key(key)) {
            let key = format!("{section}{key}");
            assert!(explained, "{EXAMPLE}: {key} is not explained");
            found.insert(key, value.trim_matches('"').to_owned());
        } else {
            explained = line.starts_with('#');
        }
    }
    for setting in settings() {
        let key = setting.key();
        let value = found.remove(&key);
        let value = value.unwrap_or_else(|| panic!("{EXAMPLE} lacks {key}"));
        if let Some(default) = defaults.get(key.as_str()) {
            assert_eq!(&value, default, "{EXAMPLE}: {key} is not the default");
        }
    }
    assert!(found.is_empty(), "{EXAMPLE} has more: {found:?}");
}

fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// What a node fills in, as it would be written.
fn defaults(config: &ServerConfig) -> BTreeMap<&'static str, String> {
    let (messages, overload) = (&config.limits, &config.overload);
    let (bounds, snapshots) = (&overload.admission, &config.snapshots);
    let stop_ms = config.stop_timeout.as_millis();
    BTreeMap::from([
        ("reflection", config.reflection.to_string()),
        ("limits.body_bytes_max", messages.body_bytes_max.to_string()),
        (
            "limits.batch_messages_max",
            messages.batch_messages_max.to_string(),
        ),
        (
            "limits.batch_bytes_max",
            messages.batch_bytes_max.to_string(),
        ),
        (
            "limits.publish_bytes_max",
            bounds.publish_bytes_max.to_string(),
        ),
        (
            "limits.connection_bytes_max",
            bounds.connection_bytes_max.to_string(),
        ),
        (
            "limits.reserved_bytes_max",
            bounds.reserved_bytes_max.to_string(),
        ),
        (
            "limits.disk_free_bytes_min",
            bounds.disk_free_bytes_min.to_string(),
        ),
        (
            "limits.disk_free_percent_min",
            bounds.disk_free_percent_min.to_string(),
        ),
        (
            "limits.apply_lag_entries_max",
            bounds.apply_lag_entries_max.to_string(),
        ),
        (
            "limits.connections_max",
            overload.connections_max.to_string(),
        ),
        (
            "limits.publish_streams_max",
            bounds.publish_streams_max.to_string(),
        ),
        ("limits.consumers_max", bounds.consumers_max.to_string()),
        ("limits.long_polls_max", bounds.long_polls_max.to_string()),
        ("storage.dead_bytes_max", config.dead_bytes_max.to_string()),
        ("snapshots.every_bytes", snapshots.every_bytes.to_string()),
        (
            "snapshots.log_bytes_kept",
            snapshots.log_bytes_kept.to_string(),
        ),
        (
            "snapshots.fetch_bytes_per_second",
            snapshots.fetch_bytes_per_second.to_string(),
        ),
        (
            "snapshots.hold_bytes_max",
            snapshots.hold_bytes_max.to_string(),
        ),
        ("stop.timeout_ms", stop_ms.to_string()),
        ("metrics.queues_max", config.metrics.queues_max.to_string()),
        ("log.format", "text".to_owned()),
        ("log.filter", config.log.filter.clone()),
    ])
}

/// Whether a node takes this value.
fn takes(setting: &Setting, value: u64) -> Result<(), String> {
    let line = format!("{} = {value}", setting.name);
    let taken = validated(&setting.section, &line);
    taken.map(drop).map_err(|error| error.to_string())
}

/// A node's configuration with a line in a section; the top has no name.
fn validated(section: &str, line: &str) -> Result<ServerConfig, ConfigError> {
    let mut top = String::from(
        "listen = \"127.0.0.1:7400\"\npeer_listen = \"127.0.0.1:7500\"\ndata_dir = \"data\"\n",
    );
    let mut sections = BTreeMap::from([("limits", MUCH_MEMORY.to_owned())]);
    match section {
        "" => top.push_str(line),
        "limits" if line.starts_with("memory") => drop(sections.insert("limits", line.to_owned())),
        section => {
            let lines = sections.entry(section).or_default();
            *lines = format!("{lines}\n{line}");
        }
    }
    if !line.starts_with("node_id") {
        top.push_str("\nnode_id = 1");
    }
    let sections = sections
        .iter()
        .map(|(name, lines)| format!("\n[{name}]\n{lines}\n"));
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("node.toml");
    fs::write(&file, top + &sections.collect::<String>()).unwrap();
    WrittenConfig::read(&file)?.validate()
}

/// A number as the pages write it, sizes in bytes.
fn number(text: &str) -> Option<u64> {
    let text = text.split(", ").next().unwrap_or_default().trim();
    let (digits, unit) = text.split_once(' ').unwrap_or((text, "B"));
    let shift = ["B", "KiB", "MiB", "GiB", "TiB"]
        .iter()
        .position(|known| *known == unit)?;
    let number: u64 = digits.replace(',', "").parse().ok()?;
    Some(number << (10 * shift))
}

/// The least and the most that a setting may be.
fn bounds(text: &str) -> (Option<u64>, Option<u64>) {
    match text.strip_prefix("at least ") {
        Some(least) => (number(least), None),
        None => match text.split_once(" to ") {
            Some((least, most)) => (number(least), number(most)),
            None => (None, None),
        },
    }
}

/// The flags and variables of `serve`, by the setting that they are for.
fn flags() -> BTreeMap<String, (String, String)> {
    let mut help = Command::new(Program::Product.path());
    help.args(["serve", "--help"]).env_clear();
    let help = help.output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut flags = BTreeMap::new();
    let mut flag = "";
    for line in help.lines().map(str::trim_start) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with('-') {
            flag = words.iter().find(|word| word.starts_with("--")).unwrap();
        }
        let variable = line
            .strip_prefix("[env: ")
            .map(|rest| rest.trim_end_matches("=]"));
        if let Some(variable) = variable.filter(|_| !NO_SETTINGS.contains(&flag)) {
            flags.insert(setting_of(flag), (flag.to_owned(), variable.to_owned()));
        }
    }
    flags
}

fn setting_of(flag: &str) -> String {
    let words = flag.trim_start_matches("--").replace('-', "_");
    match words.split_once('_') {
        Some(("log", "level")) => "log.filter".to_owned(),
        Some((section @ ("log" | "metrics"), rest)) => format!("{section}.{rest}"),
        _ => words,
    }
}

/// One table for each section.
fn tables(settings: &[Setting], flags: &BTreeMap<String, (String, String)>) -> String {
    let mut text = String::new();
    let mut section = None;
    let mut used = 0;
    for setting in settings {
        if section != Some(&setting.section) {
            section = Some(&setting.section);
            text.push_str(&setting.heading());
            text.push_str("| key | flag, variable | default | bounds | meaning |\n");
            text.push_str("| --- | --- | --- | --- | --- |\n");
        }
        let flag = flags.get(&setting.key()).map(|(flag, variable)| {
            used += 1;
            format!("`{flag}`, `{variable}`")
        });
        text.push_str(&setting.row(&flag.unwrap_or_default()));
    }
    assert_eq!(used, flags.len(), "a flag is for no setting: {flags:?}");
    text
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
