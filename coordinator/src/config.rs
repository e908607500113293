//! Settings: the built-in file, then the operator's file, then the environment. Unknown names are errors.

use std::path::{Path, PathBuf};

use config::{Config as Sources, Environment, File, FileFormat};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::{
    domain::robot::OFFLINE_AFTER_SECONDS,
    http::Proxies,
    mail_client::MailTls,
    nearest::{nearest, unknown_name},
    store::blob::S3Settings,
    telemetry_client,
};

/// The commented file with every setting and its default.
pub const DEFAULTS: &str = include_str!("../../config/coordinator.toml");
const PREFIX: &str = "DROVER_";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the settings cannot be used: {0}")]
    Unusable(String),
    #[error("the settings have no {name}; did you mean {near}?")]
    Unknown { name: String, near: String },
    #[error("{setting} cannot be read from {path}: {source}")]
    Secret { setting: &'static str, path: String, source: std::io::Error },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: Http,
    pub store: Store,
    pub blobs: Blobs,
    pub secrets: Secrets,
    pub bootstrap: Bootstrap,
    pub sessions: Sessions,
    pub openid: Openid,
    pub ldap: Ldap,
    pub leases: Leases,
    pub limits: Limits,
    pub retention: Retention,
    pub webhooks: Webhooks,
    pub mail: Mail,
    pub audit: Audit,
    pub metrics: Metrics,
    pub telemetry: Telemetry,
    pub log: Log,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: String,
    pub public_url: String,
    pub trusted_proxies: String,
    pub certificate_file: PathBuf,
    pub certificate_key_file: PathBuf,
    pub shutdown_seconds: u64,
}

impl Http {
    /// Whose `X-Forwarded-For` is believed.
    pub fn proxies(&self) -> Result<Proxies, ConfigError> {
        let refusal = |reason| ConfigError::Unusable(format!("http.trusted_proxies: {reason}"));
        Proxies::parse(&self.trusted_proxies).map_err(refusal)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    Embedded,
    Memory,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub path: PathBuf,
    pub engine: EngineKind,
    pub cache_mib: u64,
    pub segment_mib: u64,
    pub checkpoint_mib: u64,
    pub checkpoint_seconds: u64,
    pub export_mib: u64,
    pub archive: PathBuf,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blobs {
    pub url: String,
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    #[serde(serialize_with = "masked")]
    pub secret_access_key: String,
    pub secret_access_key_file: PathBuf,
}

impl std::fmt::Debug for Blobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blobs").field("url", &self.url).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Where blobs lie.
pub enum BlobPlace {
    /// A local folder; `in_store`: the one in the store's folder.
    Folder {
        path: PathBuf,
        in_store: bool,
    },
    S3(S3Settings),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    pub key_file: PathBuf,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    pub account: String,
    pub login: String,
    #[serde(serialize_with = "masked")]
    pub password: String,
    pub password_file: PathBuf,
    #[serde(serialize_with = "masked")]
    pub api_key: String,
    pub api_key_file: PathBuf,
}

impl std::fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bootstrap").field("account", &self.account).field("login", &self.login).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    pub idle_minutes: u64,
    pub lifetime_hours: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Openid {
    pub issuer: String,
    pub client_id: String,
    #[serde(serialize_with = "masked")]
    pub client_secret: String,
    pub client_secret_file: PathBuf,
    pub scopes: String,
    pub account: String,
    pub login_claim: String,
    pub groups_claim: String,
    pub roles: String,
    pub default_roles: String,
    pub create_users: bool,
}

impl std::fmt::Debug for Openid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Openid").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ldap {
    pub url: String,
    pub start_tls: bool,
    pub bind_dn: String,
    #[serde(serialize_with = "masked")]
    pub bind_password: String,
    pub bind_password_file: PathBuf,
    pub base_dn: String,
    pub filter: String,
    pub name_attribute: String,
    pub email_attribute: String,
    pub groups_attribute: String,
    pub account: String,
    pub roles: String,
    pub default_roles: String,
    pub create_users: bool,
}

impl std::fmt::Debug for Ldap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ldap").field("url", &self.url).field("base_dn", &self.base_dn).finish_non_exhaustive()
    }
}

/// `group=role` pairs between commas, or between semicolons where there is one: names in directories have commas. A group may have `=` in its name, as those of directories do: the last one counts.
pub fn role_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let between = if text.contains(';') { ';' } else { ',' };
    let pairs = text.split(between).map(str::trim).filter(|pair| !pair.is_empty());
    let parse = |pair: &str| match pair.rsplit_once('=') {
        Some((group, role)) if !group.trim().is_empty() && !role.trim().is_empty() => {
            Ok((group.trim().to_owned(), role.trim().to_owned()))
        }
        _ => Err(format!("{pair:?} is not group=role")),
    };
    pairs.map(parse).collect()
}

/// Secrets are never printed, not even to the one who set them.
fn masked<S: serde::Serializer>(secret: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if secret.is_empty() { "" } else { "••••" })
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    pub job_seconds: u64,
    pub accept_seconds: u64,
    pub lost_after_seconds: u64,
    pub heartbeat_seconds: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub package_mib: u64,
    pub artifact_mib: u64,
    pub file_mib: u64,
    pub job_log_mib: u64,
    pub requests_per_second: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    pub jobs_days: u64,
    pub logs_days: u64,
    pub deliveries_days: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    pub allow_private_targets: bool,
    pub timeout_seconds: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    pub host: String,
    /// 0: the usual one.
    pub port: u16,
    pub tls: MailTls,
    pub from: String,
    pub user: String,
    #[serde(serialize_with = "masked")]
    pub password: String,
    pub password_file: PathBuf,
}

impl Mail {
    /// The port as set, or the usual one for this way to secure the connection.
    pub fn port(&self) -> u16 {
        match (self.port, self.tls) {
            (0, MailTls::Starttls) => 587,
            (0, MailTls::Tls) => 465,
            (0, MailTls::None) => 25,
            (port, _) => port,
        }
    }
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mail").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub retention_days: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub public: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub endpoint: String,
    #[serde(serialize_with = "masked")]
    pub headers: String,
    pub headers_file: PathBuf,
    pub traces: bool,
    pub logs: bool,
    pub timeout_seconds: u64,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub level: String,
}

impl Config {
    /// Reads the settings. `environment` is the process's own, or a test's.
    pub fn load(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut sources = Sources::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            sources = sources.add_source(File::from(file).format(FileFormat::Toml));
        }
        // A name without a section (DROVER_URL, DROVER_KEY) is for the command line; the agent has a section of its own.
        let ours: Vec<(String, String)> = environment
            .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value)))
            .filter(|(name, _)| !name.starts_with("AGENT__"))
            .collect();
        if let Some((name, near)) = ours.iter().find_map(|(name, _)| Some((name, with_section(name)?))) {
            return Err(ConfigError::Unknown { name: format!("{PREFIX}{name}"), near: format!("{PREFIX}{near}") });
        }
        let own = ours.into_iter().filter(|(name, _)| name.contains("__")).collect();
        let source = Environment::default().separator("__").source(Some(own));
        let config: Self = sources
            .add_source(source)
            .build()
            .and_then(Sources::try_deserialize)
            .map_err(|error| explained(&error.to_string()))?;
        let config = config.with_files()?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |text: &str| Err(ConfigError::Unusable(text.to_owned()));
        let port = self.http.listen.rsplit_once(':').map(|(host, port)| (!host.is_empty(), port.parse::<u16>()));
        if !matches!(port, Some((true, Ok(_)))) {
            return refuse("http.listen must be an address and a port, such as 127.0.0.1:7070 or [::]:7070");
        }
        EnvFilter::try_new(&self.log.level)
            .map_err(|error| ConfigError::Unusable(format!("log.level cannot be used: {error}")))?;
        if self.sessions.idle_minutes == 0 || self.sessions.lifetime_hours == 0 {
            return refuse("sessions.idle_minutes and sessions.lifetime_hours must be at least 1");
        }
        for (name, roles) in [("openid.roles", &self.openid.roles), ("ldap.roles", &self.ldap.roles)] {
            role_pairs(roles).map_err(|error| ConfigError::Unusable(format!("{name}: {error}")))?;
        }
        if !self.openid.issuer.is_empty() && (self.openid.client_id.is_empty() || self.http.public_url.is_empty()) {
            return refuse("openid.issuer needs openid.client_id and http.public_url");
        }
        if !self.ldap.url.is_empty() && (self.ldap.base_dn.is_empty() || !self.ldap.filter.contains("{login}")) {
            return refuse("ldap.url needs ldap.base_dn, and ldap.filter with {login} in it");
        }
        let scheme = url::Url::parse(&self.ldap.url).map(|url| url.scheme().to_owned());
        if !self.ldap.url.is_empty() && !matches!(scheme.as_deref(), Ok("ldap" | "ldaps" | "ldapi")) {
            return refuse("ldap.url must be empty or an address such as ldaps://directory.example.com");
        }
        if (1..30).contains(&self.audit.retention_days) {
            return refuse("audit.retention_days must be 0 (for ever) or at least 30");
        }
        let leases = &self.leases;
        if leases.heartbeat_seconds == 0 || leases.accept_seconds == 0 || leases.job_seconds == 0 {
            return refuse("leases.job_seconds, accept_seconds and heartbeat_seconds must be at least 1");
        }
        if self.store.segment_mib == 0 || self.store.segment_mib > 4096 {
            return refuse("store.segment_mib must be from 1 to 4096");
        }
        if self.store.checkpoint_mib == 0 || self.store.checkpoint_seconds == 0 || self.store.export_mib == 0 {
            return refuse("store.checkpoint_mib, checkpoint_seconds and export_mib must be at least 1");
        }
        if !self.mail.host.is_empty() && self.mail.from.parse::<lettre::message::Mailbox>().is_err() {
            return refuse("mail.from must be an address such as drover@example.com or Drover <drover@example.com>");
        }
        if self.webhooks.timeout_seconds == 0 {
            return refuse("webhooks.timeout_seconds must be at least 1");
        }
        self.check_telemetry()?;
        if self.limits.job_log_mib == 0 {
            return refuse("limits.job_log_mib must be at least 1");
        }
        let bounded = [
            ("store.cache_mib", self.store.cache_mib, 1_048_576),
            ("store.checkpoint_mib", self.store.checkpoint_mib, 1_048_576),
            ("store.checkpoint_seconds", self.store.checkpoint_seconds, 86_400),
            ("store.export_mib", self.store.export_mib, 1_048_576),
            ("limits.package_mib", self.limits.package_mib, 1_048_576),
            ("limits.artifact_mib", self.limits.artifact_mib, 1_048_576),
            ("limits.file_mib", self.limits.file_mib, 1_073_741_824),
            ("limits.job_log_mib", self.limits.job_log_mib, 1_048_576),
            ("retention.jobs_days", self.retention.jobs_days, 36_500),
            ("retention.logs_days", self.retention.logs_days, 36_500),
            ("retention.deliveries_days", self.retention.deliveries_days, 36_500),
            ("webhooks.timeout_seconds", self.webhooks.timeout_seconds, 300),
            ("telemetry.timeout_seconds", self.telemetry.timeout_seconds, 300),
            ("sessions.idle_minutes", self.sessions.idle_minutes, 5_256_000),
            ("sessions.lifetime_hours", self.sessions.lifetime_hours, 87_600),
            // A robot that is not heard of for a minute counts as offline.
            ("leases.heartbeat_seconds", leases.heartbeat_seconds, OFFLINE_AFTER_SECONDS / 2),
            ("leases.job_seconds", leases.job_seconds, 86_400),
            ("leases.accept_seconds", leases.accept_seconds, 86_400),
            ("leases.lost_after_seconds", leases.lost_after_seconds, 31_536_000),
        ];
        if let Some((name, _, most)) = bounded.into_iter().find(|(_, value, most)| value > most) {
            return refuse(&format!("{name} must be at most {most}"));
        }
        let public = &self.http.public_url;
        if !public.is_empty() && !is_root(public) {
            return refuse("http.public_url must be empty or an address such as https://drover.example.com");
        }
        self.http.proxies()?;
        if self.http.certificate_file.as_os_str().is_empty() != self.http.certificate_key_file.as_os_str().is_empty() {
            return refuse("http.certificate_file and http.certificate_key_file belong together: give both or none");
        }
        let key = &self.bootstrap.api_key;
        if !key.chars().all(|char| char.is_ascii_graphic()) {
            return refuse("bootstrap.api_key must consist of visible ASCII characters without spaces");
        }
        self.blob_place()?;
        if self.bootstrap.api_key.len() > crate::domain::key::MAX_KEY_CHARS {
            return refuse("bootstrap.api_key must have at most 256 characters");
        }
        Ok(())
    }

    fn check_telemetry(&self) -> Result<(), ConfigError> {
        let refuse = |text: &str| Err(ConfigError::Unusable(text.to_owned()));
        let Telemetry { endpoint, headers, timeout_seconds, .. } = &self.telemetry;
        if !endpoint.is_empty() && !is_root(endpoint) {
            return refuse("telemetry.endpoint must be empty or an address such as http://127.0.0.1:4318");
        }
        // It is shown with the settings and in errors.
        if url::Url::parse(endpoint).is_ok_and(|url| !url.username().is_empty() || url.password().is_some()) {
            return refuse(
                "telemetry.endpoint must not hold a password; say telemetry.headers = \"authorization=Basic …\"",
            );
        }
        if *timeout_seconds == 0 {
            return refuse("telemetry.timeout_seconds must be at least 1");
        }
        // The reason names no value: a header is mostly a secret.
        telemetry_client::headers(headers)
            .map_err(|reason| ConfigError::Unusable(format!("telemetry.headers: {reason}")))?;
        Ok(())
    }

    /// Secrets that lie in files of their own.
    fn with_files(mut self) -> Result<Self, ConfigError> {
        let bootstrap = &mut self.bootstrap;
        read_secret("bootstrap.password_file", &bootstrap.password_file, &mut bootstrap.password)?;
        let blobs = &mut self.blobs;
        read_secret("blobs.secret_access_key_file", &blobs.secret_access_key_file, &mut blobs.secret_access_key)?;
        read_secret("mail.password_file", &self.mail.password_file, &mut self.mail.password)?;
        read_secret("bootstrap.api_key_file", &bootstrap.api_key_file, &mut bootstrap.api_key)?;
        let telemetry = &mut self.telemetry;
        read_secret("telemetry.headers_file", &telemetry.headers_file, &mut telemetry.headers)?;
        let openid = &mut self.openid;
        read_secret("openid.client_secret_file", &openid.client_secret_file, &mut openid.client_secret)?;
        let ldap = &mut self.ldap;
        read_secret("ldap.bind_password_file", &ldap.bind_password_file, &mut ldap.bind_password)?;
        Ok(self)
    }

    /// How often agents report: as set, but at least three times within a lease, so that one lost report loses nothing.
    pub fn heartbeat_seconds(&self) -> u64 {
        self.leases.heartbeat_seconds.min((self.leases.job_seconds / 3).max(1))
    }

    /// Where blobs lie.
    pub fn blob_place(&self) -> Result<BlobPlace, ConfigError> {
        let blobs = &self.blobs;
        if blobs.url.is_empty() {
            return Ok(BlobPlace::Folder { path: self.store.path.join("blobs"), in_store: true });
        }
        let refusal = || {
            ConfigError::Unusable(format!(
                "blobs.url must be empty, name a local folder as file:///folder, or a bucket as s3://bucket/prefix, not {}",
                blobs.url
            ))
        };
        let url = url::Url::parse(&blobs.url).map_err(|_| refusal())?;
        match url.scheme() {
            "file" => {
                let path = url.to_file_path().map_err(|()| refusal())?;
                Ok(BlobPlace::Folder { path, in_store: false })
            }
            "s3" => Ok(BlobPlace::S3(S3Settings {
                bucket: url.host_str().filter(|bucket| !bucket.is_empty()).ok_or_else(refusal)?.to_owned(),
                prefix: url.path().trim_matches('/').to_owned(),
                endpoint: blobs.endpoint.clone(),
                region: blobs.region.clone(),
                access_key_id: blobs.access_key_id.clone(),
                secret_access_key: blobs.secret_access_key.clone(),
            })),
            _ => Err(refusal()),
        }
    }

    /// For how many days acts are kept at the least; nothing for ever.
    pub fn audit_retention_days(&self) -> Option<u32> {
        Some(self.audit.retention_days).filter(|days| *days > 0)
    }

    /// Where the key file lies.
    pub fn key_file(&self) -> PathBuf {
        match self.secrets.key_file.as_os_str().is_empty() {
            true => self.store.path.join("secrets.key"),
            false => self.secrets.key_file.clone(),
        }
    }

    /// The settings as they are in force, secrets masked.
    pub fn printed(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# the settings cannot be printed: {error}"))
    }
}

/// Whether a text is an address of HTTP below which paths can be put.
/// The variable of a setting that was meant by one whose section is set off by one `_`, where two are needed.
fn with_section(name: &str) -> Option<String> {
    let defaults: toml::Table = toml::from_str(DEFAULTS).ok()?;
    let settings = defaults.iter().filter_map(|(section, settings)| Some((section, settings.as_table()?)));
    let mut names = settings.flat_map(|(section, settings)| settings.keys().map(move |setting| (section, setting)));
    let (section, setting) =
        names.find(|(section, setting)| name.eq_ignore_ascii_case(&format!("{section}_{setting}")))?;
    Some(format!("{section}__{setting}").to_uppercase())
}

fn is_root(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.query().is_none())
}

fn read_secret(setting: &'static str, path: &Path, secret: &mut String) -> Result<(), ConfigError> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Secret {
        setting,
        path: path.display().to_string(),
        source,
    })?;
    *secret = text.trim_end_matches(['\r', '\n']).to_owned();
    Ok(())
}

fn explained(message: &str) -> ConfigError {
    match unknown_name(message) {
        Some(name) => match nearest(name, message) {
            Some(near) => ConfigError::Unknown { name: name.to_owned(), near: near.to_owned() },
            None => ConfigError::Unusable(format!("there is no setting {name}")),
        },
        None => ConfigError::Unusable(message.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let pairs: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(None, pairs.into_iter())
    }

    /// The built-in file is the only source of defaults, so it must be whole.
    #[test]
    fn the_built_in_file_has_every_setting() {
        let config = load(&[]).expect("the built-in file is whole");
        assert_eq!(config.http.listen, "127.0.0.1:7070");
        assert_eq!(config.leases.lost_after_seconds, 300);
        assert!(!config.webhooks.allow_private_targets);
        assert_eq!(config.key_file(), Path::new("/var/lib/drover/secrets.key"));
    }

    #[test]
    fn the_environment_wins_and_foreign_variables_do_not_matter() {
        let config = load(&[
            ("DROVER_HTTP__LISTEN", "127.0.0.1:0"),
            ("DROVER_LEASES__LOST_AFTER_SECONDS", "7"),
            ("DROVER_BOOTSTRAP__API_KEY", "secret-key"),
            ("DROVER_URL", "http://localhost"),
            ("DROVER_AGENT__CAPACITY", "3"),
        ])
        .expect("these settings are fine");
        assert_eq!((config.http.listen.as_str(), config.leases.lost_after_seconds), ("127.0.0.1:0", 7));
        assert!(!config.printed().contains("secret-key"));
        assert!(!format!("{config:?}").contains("secret-key"));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let error = load(&[("DROVER_HTTP__LISTN", "x")]).expect_err("there is no such setting");
        assert_eq!(error.to_string(), "the settings have no listn; did you mean listen?");
        assert!(load(&[("DROVER_LEASES__HEARTBEAT_SECONDS", "0")]).is_err());
        assert!(load(&[("DROVER_STORE__CACHE_MIB", "much")]).is_err());
        assert!(load(&[("DROVER_SESSIONS__IDLE_MINUTES", "0")]).is_err());
        assert!(load(&[("DROVER_AUDIT__RETENTION_DAYS", "1")]).is_err());
        assert!(load(&[("DROVER_STORE__EXPORT_MIB", "0")]).is_err());
        assert!(load(&[("DROVER_WEBHOOKS__TIMEOUT_SECONDS", "0")]).is_err());
        assert!(load(&[("DROVER_MAIL__HOST", "mail.example.com")]).is_err(), "nobody knows whose mail it is");
        assert!(load(&[("DROVER_HTTP__TRUSTED_PROXIES", "10.0.0.0/8,proxy")]).is_err());
        for (name, value) in [
            ("DROVER_HTTP__LISTEN", "nonsense"),
            ("DROVER_HTTP__LISTEN", ":7070"),
            ("DROVER_LOG__LEVEL", "a=b=c"),
            ("DROVER_SESSIONS__IDLE_MINUTES", "18446744073709551615"),
            ("DROVER_LEASES__HEARTBEAT_SECONDS", "300"),
        ] {
            assert!(load(&[(name, value)]).is_err(), "{name}={value}");
        }
        assert!(load(&[("DROVER_HTTP__LISTEN", "[::1]:0")]).is_ok());
        let ldap = [("DROVER_LDAP__BASE_DN", "dc=example"), ("DROVER_LDAP__URL", "nonsense")];
        assert!(load(&ldap).is_err_and(|error| error.to_string().contains("ldaps://")));
        let error = load(&[("DROVER_HTTP_LISTEN", "127.0.0.1:1")]).expect_err("it would be passed over");
        let text = "the settings have no DROVER_HTTP_LISTEN; did you mean DROVER_HTTP__LISTEN?";
        assert_eq!(error.to_string(), text);
        assert!(load(&[("DROVER_HTTP__TRUSTED_PROXIES", "10.0.0.0/8, ::1")]).is_ok());
    }

    #[test]
    fn the_port_of_the_mail_server_follows_from_how_it_is_secured() {
        let given = [("DROVER_MAIL__HOST", "mail.example.com"), ("DROVER_MAIL__FROM", "Drover <drover@example.com>")];
        let load = |more: &[(&str, &str)]| load(&[&given, more].concat()).expect("these settings are fine");
        assert_eq!(load(&[]).mail.port(), 587);
        assert_eq!(load(&[("DROVER_MAIL__TLS", "tls")]).mail.port(), 465);
        assert_eq!(load(&[("DROVER_MAIL__TLS", "none"), ("DROVER_MAIL__PORT", "2525")]).mail.port(), 2525);
        let secret = load(&[("DROVER_MAIL__USER", "drover"), ("DROVER_MAIL__PASSWORD", "secret-word")]);
        assert!(!secret.printed().contains("secret-word") && !format!("{secret:?}").contains("secret-word"));
    }

    /// A short lease with the usual heartbeat would make every job silent again and again.
    #[test]
    fn a_short_lease_is_renewed_often_enough() {
        let config = load(&[("DROVER_LEASES__JOB_SECONDS", "6")]).expect("a short lease is fine");
        assert_eq!(config.heartbeat_seconds(), 2);
        assert_eq!(load(&[]).expect("the defaults are fine").heartbeat_seconds(), 20);
    }

    #[test]
    fn blobs_may_lie_in_another_folder_or_a_bucket_and_nowhere_else() {
        let place = |url: &str| load(&[("DROVER_BLOBS__URL", url)]).and_then(|config| config.blob_place());
        assert!(matches!(place(""), Ok(BlobPlace::Folder { in_store: true, .. })));
        let folder = place("file:///srv/blobs");
        assert!(matches!(folder, Ok(BlobPlace::Folder { path, in_store: false }) if path == Path::new("/srv/blobs")));
        for (url, prefix) in [("s3://bucket", ""), ("s3://bucket/", ""), ("s3://bucket/a/b/", "a/b")] {
            let found = place(url);
            assert!(matches!(found, Ok(BlobPlace::S3(s3)) if s3.bucket == "bucket" && s3.prefix == prefix), "{url}");
        }
        for bad in ["s3://", "ftp://host/x", "/srv/blobs", "file://host/x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_secret_of_the_object_store_is_never_shown() {
        let config = load(&[("DROVER_BLOBS__SECRET_ACCESS_KEY", "much-secret")]).expect("it is a text");
        assert_eq!(config.blobs.secret_access_key, "much-secret");
        assert!(!config.printed().contains("much-secret"));
        assert!(!format!("{config:?}").contains("much-secret"));
    }

    #[test]
    fn groups_give_roles_between_commas_or_semicolons() {
        let pair = |group: &str, role: &str| (group.to_owned(), role.to_owned());
        assert_eq!(role_pairs(" ops = operator,boss=admin,"), Ok(vec![pair("ops", "operator"), pair("boss", "admin")]));
        assert_eq!(
            role_pairs("cn=ops,dc=x=operator;cn=boss,dc=x=admin"),
            Ok(vec![pair("cn=ops,dc=x", "operator"), pair("cn=boss,dc=x", "admin")])
        );
        assert!(role_pairs("ops").is_err() && role_pairs("=operator").is_err() && role_pairs("ops=").is_err());
    }

    /// Ways to sign in that could not work are refused at the start, and their secrets are never shown.
    #[test]
    fn other_ways_to_sign_in_are_whole_or_not_there() {
        let issuer = ("DROVER_OPENID__ISSUER", "https://id.example.com");
        let public = ("DROVER_HTTP__PUBLIC_URL", "https://drover.example.com");
        let secret = ("DROVER_OPENID__CLIENT_SECRET", "much-secret");
        assert!(load(&[issuer]).is_err() && load(&[issuer, public]).is_err());
        let config = load(&[issuer, public, secret, ("DROVER_OPENID__CLIENT_ID", "drover")]).expect("it is whole");
        assert!(!config.printed().contains("much-secret") && !format!("{config:?}").contains("much-secret"));
        let url = ("DROVER_LDAP__URL", "ldaps://directory.example.com");
        let base = ("DROVER_LDAP__BASE_DN", "dc=example,dc=com");
        let password = ("DROVER_LDAP__BIND_PASSWORD", "much-secret");
        assert!(load(&[url]).is_err() && load(&[url, base, ("DROVER_LDAP__FILTER", "(uid=x)")]).is_err());
        let config = load(&[url, base, password]).expect("it is whole");
        assert!(!config.printed().contains("much-secret") && !format!("{config:?}").contains("much-secret"));
        assert!(load(&[("DROVER_LDAP__ROLES", "ops")]).is_err());
    }

    #[test]
    fn a_key_that_looks_like_a_number_stays_text() {
        let config = load(&[("DROVER_BOOTSTRAP__API_KEY", "0012345")]).expect("it is a text");
        assert_eq!(config.bootstrap.api_key, "0012345");
    }
}
