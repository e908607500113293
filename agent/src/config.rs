//! Settings: the commented defaults of `config/agent.toml` ← a file ← the environment (`DROVER_AGENT__…`).
//!
//! Unknown settings are an error that names the nearest one there is.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use config::{Config, Environment, File, FileFormat, Map, Value, ValueKind};
use serde::{Deserialize, Deserializer, Serialize, de};

/// The commented defaults, as they are built in.
pub const DEFAULTS: &str = include_str!("../../config/agent.toml");
const ENVIRONMENT_PREFIX: &str = "DROVER_AGENT";
/// Where the service keeps its settings.
pub const SYSTEM_FILE: &str = "/etc/drover/agent.toml";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub state_dir: PathBuf,
    pub work_dir: PathBuf,
    pub server: String,
    pub machine_id: String,
    pub capacity: u32,
    #[serde(deserialize_with = "labels")]
    pub labels: BTreeMap<String, String>,
    pub drain_timeout_seconds: u64,
    pub proxy: String,
    pub ca_file: String,
    pub python: String,
    pub log: Log,
    pub policy: Policy,
    pub limits: Limits,
    pub cache: Cache,
    pub hooks: Hooks,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    #[serde(deserialize_with = "list")]
    pub allowed_processes: Vec<String>,
    pub require_signature: bool,
    pub run_as: String,
    #[serde(deserialize_with = "list")]
    pub environment: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub unpacked_bytes: u64,
    pub spool_bytes: u64,
    pub memory_bytes: u64,
    pub open_files: u64,
    pub kill_wait_seconds: u64,
    pub environment_build_seconds: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    pub packages_bytes: u64,
    pub environments_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hooks {
    #[serde(deserialize_with = "list")]
    pub before_job: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub after_job: Vec<String>,
    pub timeout_seconds: u64,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the configuration cannot be read: {0}")]
    Read(#[from] config::ConfigError),
    #[error("there is no setting \"{key}\"{}", nearest_text(nearest.as_deref()))]
    Unknown { key: String, nearest: Option<String> },
    #[error("{key}: {reason}")]
    Invalid { key: &'static str, reason: String },
}

fn nearest_text(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean \"{nearest}\"?")).unwrap_or_default()
}

impl Settings {
    /// Reads the settings. `environment` is that of the process; tests bring their own.
    pub fn load(file: Option<&Path>, environment: Map<String, String>) -> Result<Self, SettingsError> {
        let mut own = Config::builder();
        if let Some(file) = file {
            own = own.add_source(File::from(file).format(FileFormat::Toml));
        }
        let environment = Environment::with_prefix(ENVIRONMENT_PREFIX)
            .prefix_separator("__")
            .separator("__")
            .source(Some(environment.into_iter().filter(|(name, _)| name.starts_with("DROVER_AGENT__")).collect()));
        let own = own.add_source(environment).build()?;
        let defaults = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)).build()?;
        refuse_unknown(&own, &defaults)?;
        let merged = Config::builder().add_source(defaults).add_source(own).build()?;
        let settings: Self = merged.try_deserialize()?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let invalid = |key, reason: &str| Err(SettingsError::Invalid { key, reason: reason.to_owned() });
        if self.policy.require_signature {
            return invalid(
                "policy.require_signature",
                "this version cannot check signatures; set it to false, or restrict policy.allowed_processes",
            );
        }
        if !self.server.is_empty()
            && let Err(error) = crate::transport::server_root(&self.server)
        {
            return invalid("server", &error.to_string());
        }
        if self.capacity > 1000 {
            return invalid("capacity", "at most 1000 jobs at once");
        }
        if self.machine_id.len() > 128 {
            return invalid("machine_id", "at most 128 characters");
        }
        if self.state_dir.as_os_str().is_empty() {
            return invalid("state_dir", "a folder is needed");
        }
        if self.limits.spool_bytes < 1024 * 1024 {
            return invalid("limits.spool_bytes", "at least 1048576 (1 MiB)");
        }
        if !self.policy.run_as.is_empty()
            && (self.work_dir.as_os_str().is_empty() || self.work_dir.starts_with(&self.state_dir))
        {
            return invalid(
                "work_dir",
                "must be set to a folder outside of state_dir when policy.run_as is set, because the other account cannot enter state_dir",
            );
        }
        for (name, value) in &self.labels {
            if name.is_empty() || name.len() > 128 || value.len() > 128 {
                return invalid("labels", "names of 1 to 128 and values of at most 128 characters");
            }
        }
        Ok(())
    }

    /// The folder of packages, environments and work folders.
    pub fn work_folder(&self) -> PathBuf {
        if self.work_dir.as_os_str().is_empty() { self.state_dir.join("work") } else { self.work_dir.clone() }
    }

    /// What holds, as TOML; passwords inside of addresses are left out.
    pub fn print(&self) -> String {
        let mut shown = self.clone();
        if !shown.proxy.is_empty() {
            shown.proxy = crate::transport::without_password(&shown.proxy);
        }
        toml::to_string(&shown).unwrap_or_else(|error| format!("# the settings cannot be written as TOML: {error}\n"))
    }
}

/// True if `text` is as `pattern` says; `*` stands for any characters.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or("");
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

fn refuse_unknown(own: &Config, defaults: &Config) -> Result<(), SettingsError> {
    let mut known = Vec::new();
    paths_of("", &defaults.cache, &mut known);
    let mut given = Vec::new();
    paths_of("", &own.cache, &mut given);
    for key in given {
        let is_known = known.contains(&key)
            || key.starts_with("labels.")
            || known.iter().any(|known| known.starts_with(&format!("{key}.")));
        if !is_known {
            let nearest =
                known.iter().map(|known| (strsim::jaro_winkler(known, &key), known)).max_by(|a, b| a.0.total_cmp(&b.0));
            let nearest = nearest.filter(|(similarity, _)| *similarity > 0.75).map(|(_, known)| known.clone());
            return Err(SettingsError::Unknown { key, nearest });
        }
    }
    Ok(())
}

fn paths_of(prefix: &str, value: &Value, paths: &mut Vec<String>) {
    match &value.kind {
        ValueKind::Table(table) if prefix != "labels" => {
            for (name, value) in table {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                paths_of(&path, value, paths);
            }
        }
        _ => paths.push(prefix.to_owned()),
    }
}

/// A table, or as in the environment `name=value,name=value`.
fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table of texts, or a text such as \"zone=north,scanner=yes\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts
                .map(|part| part.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())))
                .collect::<Option<_>>()
                .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut labels = BTreeMap::new();
            while let Some((name, value)) = map.next_entry()? {
                labels.insert(name, value);
            }
            Ok(labels)
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// A list, or as in the environment a text with commas.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts, or a text with commas in between")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = sequence.next_element()? {
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn load(file: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let mut path = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
        path.write_all(file.as_bytes()).expect("written");
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::load(Some(path.path()), environment)
    }

    /// Every setting of the code is in the commented file with a comment above it or its table, and nothing else is.
    #[test]
    fn the_commented_file_is_complete() {
        let settings = load("", &[]).expect("the defaults are valid");
        let from_code: toml::Table = toml::from_str(&toml::to_string(&settings).expect("TOML")).expect("TOML");
        let from_file: toml::Table = toml::from_str(DEFAULTS).expect("TOML");
        assert_eq!(from_code, from_file);
        let mut previous = "";
        for line in DEFAULTS.lines() {
            let is_setting = line.starts_with(|first: char| first.is_ascii_lowercase());
            assert!(!is_setting || previous.starts_with('#'), "no comment above: {line}");
            previous = line;
        }
    }

    #[test]
    fn file_and_environment_win_in_this_order() {
        let file = "capacity = 3\n[log]\nformat = \"json\"\n[labels]\nzone = \"north\"\n";
        let settings = load(file, &[("DROVER_AGENT__CAPACITY", "5"), ("OTHER", "x")]).expect("valid");
        assert_eq!((settings.capacity, settings.log.format), (5, LogFormat::Json));
        assert_eq!(settings.labels.get("zone").map(String::as_str), Some("north"));
        let environment = [
            ("DROVER_AGENT__LABELS", "a=1, b=x y"),
            ("DROVER_AGENT__STATE_DIR", "/tmp/s"),
            ("DROVER_AGENT__MACHINE_ID", "0042"),
            ("DROVER_AGENT__POLICY__ALLOWED_PROCESSES", "in*,out"),
        ];
        let settings = load(file, &environment).expect("valid");
        assert_eq!(settings.labels, BTreeMap::from([("a".into(), "1".into()), ("b".into(), "x y".into())]));
        assert_eq!((settings.state_dir, settings.machine_id.as_str()), (PathBuf::from("/tmp/s"), "0042"));
        assert_eq!(settings.policy.allowed_processes, ["in*", "out"]);
    }

    #[test]
    fn mistakes_are_named() {
        let text = |file: &str, environment: &[(&str, &str)]| load(file, environment).expect_err("wrong").to_string();
        assert_eq!(text("capasity = 1", &[]), "there is no setting \"capasity\"; did you mean \"capacity\"?");
        assert_eq!(
            text("[log]\nformt = \"json\"", &[]),
            "there is no setting \"log.formt\"; did you mean \"log.format\"?"
        );
        assert!(text("", &[("DROVER_AGENT__STATEDIR", "/x")]).contains("state_dir"));
        assert!(text("capacity = \"many\"", &[]).contains("capacity"));
        assert!(text("capacity = 5000", &[]).contains("1000"));
        assert!(text("[policy]\nrequire_signature = true", &[]).contains("cannot check signatures"));
        assert!(text("[policy]\nrun_as = \"robot\"", &[]).contains("work_dir"));
        assert!(text("server = \"nonsense\"", &[]).contains("https://"));
    }

    #[test]
    fn printed_settings_hold_no_password() {
        let settings = load("proxy = \"http://user:hunter2@proxy:3128\"", &[]).expect("valid");
        assert!(!settings.print().contains("hunter2") && settings.print().contains("proxy:3128"));
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("inv*", "invoices", true),
            ("inv*", "an invoice", false),
            ("*-prod", "a-prod", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "ac", false),
            ("aba*aba", "aba", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }
}
