//! The settings as the sources of the configuration have them: each is a field of a struct with `Written` before its
//! name, and what is said of it ends with its default and bounds in brackets, `(default 1 MiB; 1 B to 16 MiB)`,
//! or with `(required)`.

use std::collections::BTreeMap;
use std::fs;

const FOLDER: &str = "crates/server/src/config";
/// Where the sections are named.
const WHOLE: &str = "WrittenConfig";

/// A setting of a node.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// Empty for the top of the file.
    pub(super) section: String,
    pub(super) name: String,
    pub(super) default: String,
    pub(super) bounds: String,
    about_section: String,
    meaning: String,
}

impl Setting {
    pub(super) fn key(&self) -> String {
        match self.section.as_str() {
            "" => self.name.clone(),
            section => format!("{section}.{}", self.name),
        }
    }

    pub(super) fn heading(&self) -> String {
        match self.section.as_str() {
            "" => "\n## The node\n\nAt the top of the file.\n\n".to_owned(),
            section => format!("\n## `[{section}]`\n\n{}\n\n", self.about_section),
        }
    }

    pub(super) fn row(&self, flag: &str) -> String {
        format!(
            "| `{}` | {flag} | {} | {} | {} |\n",
            self.name, self.default, self.bounds, self.meaning
        )
    }
}

/// A field with its type and what is said of it.
#[derive(Clone, Debug)]
struct Field {
    name: String,
    kind: String,
    about: String,
}

/// All settings, those at the top first.
pub(super) fn settings() -> Vec<Setting> {
    let structs = structs();
    let whole = &structs[WHOLE];
    let is_section = |field: &&Field| field.kind.starts_with("Written");
    let top = whole.iter().filter(|field| !is_section(field));
    let mut settings: Vec<Setting> = top.map(|field| setting("", "", field)).collect();
    for section in whole.iter().filter(is_section) {
        let fields = &structs[&section.kind];
        assert!(!fields.is_empty(), "{section:?}");
        let of = |field| setting(&section.name, &section.about, field);
        settings.extend(fields.iter().map(of));
    }
    settings
}

fn setting(section: &str, about_section: &str, field: &Field) -> Setting {
    let about = field.about.trim_end_matches('.');
    let parts = about
        .rsplit_once(" (")
        .filter(|(_, end)| end.ends_with(')'));
    let (meaning, end) = parts.unwrap_or_else(|| panic!("no default in {field:?}"));
    let end = end.trim_end_matches(')');
    let (default, bounds) = end.split_once("; ").unwrap_or((end, ""));
    let default = match default.strip_prefix("default ") {
        Some(default) => default.to_owned(),
        None if default == "required" => "required".to_owned(),
        None => panic!("no default in {field:?}"),
    };
    let stop = if meaning.ends_with('.') { "" } else { "." };
    Setting {
        section: section.to_owned(),
        name: field.name.clone(),
        default,
        bounds: bounds.to_owned(),
        about_section: about_section.to_owned(),
        meaning: format!("{meaning}{stop}"),
    }
}

/// The fields of each struct as written.
fn structs() -> BTreeMap<String, Vec<Field>> {
    let mut structs: BTreeMap<String, Vec<Field>> = BTreeMap::new();
    for entry in fs::read_dir(super::root().join(FOLDER)).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut current = None;
        let mut about = String::new();
        for line in text.lines() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix("pub struct Written") {
                let name = format!("Written{}", name.trim_end_matches(" {"));
                structs.entry(name.clone()).or_default();
                current = Some(name);
            } else if line == "}" {
                current = None;
            } else if let Some(said) = line.strip_prefix("/// ") {
                let gap = if about.is_empty() { "" } else { " " };
                about = format!("{about}{gap}{said}");
                continue;
            } else if line.starts_with("#[") {
                continue;
            } else if let (Some(name), Some(field)) = (&current, line.strip_prefix("pub ")) {
                let (field, kind) = field.trim_end_matches(',').split_once(": ").unwrap();
                structs.get_mut(name).unwrap().push(Field {
                    name: field.to_owned(),
                    kind: kind.to_owned(),
                    about: about.clone(),
                });
            }
            about.clear();
        }
    }
    structs
}
