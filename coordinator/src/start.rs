//! Starting and ending a coordinator: opens what is on the disk, makes the first account, runs loops and service.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use drover_protocol::{API_BASE, AccountId};

use crate::{
    account_archive::{self, Taken},
    app::{App, Limits, OnDisk, Rules},
    background::{self, Background, retention::Ages},
    clock::{Randomness, SystemClock, SystemRandomness},
    config::{BlobPlace, Config, EngineKind, role_pairs},
    domain::job::Leases,
    external::{self, Admission, ldap, openid},
    http::{self, Certificate, Server},
    mail_client::MailRules,
    operations::{
        account::{self, Bootstrap},
        key, rotation,
        session::SessionRules,
        task,
    },
    password,
    secrets::Secrets,
    store::{
        Db, Reading, Tx,
        blob::Blobs,
        embedded::{Embedded, Settings},
        engine::Engine,
        key::{Key, Kind, SYSTEM_ACCOUNT},
        memory::Memory,
    },
    telemetry_client::{self, TelemetryRules},
    webhook_client::WebhookRules,
};

const MIB: u64 = 1024 * 1024;

/// A coordinator that runs.
pub struct Running {
    pub app: Arc<App>,
    pub server: Server,
    background: Background,
    engine: Option<Arc<Embedded>>,
    /// The administrator's key, if it was made just now: to be shown once.
    pub new_key: Option<String>,
    patience: Duration,
}

/// What the settings of the store come to.
pub fn engine_settings(config: &Config) -> Settings {
    let archive = &config.store.archive;
    Settings {
        segment_bytes: config.store.segment_mib * MIB,
        cache_bytes: config.store.cache_mib * MIB,
        checkpoint_bytes: config.store.checkpoint_mib * MIB,
        checkpoint_every: Duration::from_secs(config.store.checkpoint_seconds),
        export_bytes: config.store.export_mib * MIB,
        archive: (!archive.as_os_str().is_empty()).then(|| archive.clone()),
        on_broken: Arc::new(broken),
        ..Settings::default()
    }
}

/// The engine can no longer be trusted in this process. A supervisor starts the next one, and replay makes it right.
fn broken(reason: &str) {
    tracing::error!(reason, "the store is broken; the coordinator ends at once and can be started again");
    std::process::exit(70);
}

/// Opens everything and begins to serve.
pub async fn start(config: &Config) -> anyhow::Result<Running> {
    let (engine, blobs, on_disk) = open_store(config).await?;
    let randomness = Arc::new(SystemRandomness);
    let db = Arc::new(Db::new(engine, Arc::new(SystemClock), randomness.clone(), Box::new(broken)));
    let is_new = db.read(SYSTEM_ACCOUNT, |reading| account::all(reading))?.is_empty();
    let secrets = Arc::new(Secrets::open(&config.key_file(), is_new, &*randomness)?);
    let new_key = match is_new {
        true => first_account(&db, config, &secrets, &*randomness).await?,
        false => {
            check_fingerprint(&db, &secrets, &config.key_file())?;
            renew_indexes(&db).await.context("the store cannot be brought into the form of this version")?;
            None
        }
    };
    let claimed = blobs.claim(&secrets.fingerprint_text()).await;
    claimed.with_context(|| format!("{} (setting blobs.url) cannot be used", config.blobs.url))?;
    let engine = on_disk.as_ref().map(|on_disk| Arc::clone(&on_disk.engine));
    let app = App::new(db, Arc::new(blobs), secrets, rules(config), on_disk);
    let server = Server::bind(&config.http.listen)
        .await
        .with_context(|| format!("cannot listen on {} (setting http.listen)", config.http.listen))?;
    let server = encrypted(server, config)?.behind(config.http.proxies()?);
    let ages = Ages {
        jobs_days: config.retention.jobs_days,
        logs_days: config.retention.logs_days,
        deliveries_days: config.retention.deliveries_days,
    };
    let background = background::start(&app, ages).await.context("the periodic loops cannot be started")?;
    let patience = Duration::from_secs(config.http.shutdown_seconds);
    Ok(Running { app, server, background, engine, new_key, patience })
}

/// Brings what older versions have written into the form in which it is read. Nothing is left to do the next time.
async fn renew_indexes(db: &Db) -> anyhow::Result<()> {
    let accounts =
        db.read(SYSTEM_ACCOUNT, |reading| Ok([account::all(reading)?, account::deleted(reading)?].concat()))?;
    for account in accounts {
        while db.write(account, |tx| task::renew_lateness_page(tx, RENEWED_PAGE)).await? == RENEWED_PAGE {}
    }
    Ok(())
}

const NOT_ENCRYPTED: &str =
    "connections cannot be encrypted (settings http.certificate_file and http.certificate_key_file)";

/// The certificate that the settings name, if they do.
fn certificate(config: &Config) -> anyhow::Result<Option<Certificate>> {
    let (certificate, key) = (&config.http.certificate_file, &config.http.certificate_key_file);
    match certificate.as_os_str().is_empty() {
        true => Ok(None),
        false => Certificate::open(certificate, key).map(Some).context(NOT_ENCRYPTED),
    }
}

/// Encrypts connections if the settings name a certificate.
fn encrypted(server: Server, config: &Config) -> anyhow::Result<Server> {
    match certificate(config)? {
        Some(certificate) => server.encrypted(certificate).context(NOT_ENCRYPTED),
        None => Ok(server),
    }
}

/// What the settings name must be there, as far as that can be seen without starting.
pub fn check(config: &Config) -> anyhow::Result<()> {
    certificate(config).map(|_| ())
}

/// For commands about a store that is there: refuses a folder without one, which such a command would fill, and the store of
/// another user, who could no longer read it afterwards.
pub fn require_store(config: &Config) -> anyhow::Result<()> {
    let path = &config.store.path;
    if config.store.engine == EngineKind::Memory {
        bail!("store.engine is memory: there is no store");
    }
    if !["log", "export", "marker"].iter().any(|name| path.join(name).exists()) {
        bail!(
            "there is no store in {} (setting store.path); name the settings that the coordinator runs with, for example \
             with --config /etc/drover/coordinator.toml",
            path.display()
        );
    }
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata(path.join("LOCK")).map(|lock| lock.uid());
        let own = std::fs::metadata("/proc/self").map(|own| own.uid());
        if let (Ok(owner), Ok(own)) = (owner, own)
            && owner != own
        {
            bail!(
                "the store in {} is that of the user with the number {owner}, who could not read it any more; call this as \
                 that user: sudo -u '#{owner}' drover-coordinator …",
                path.display()
            );
        }
    }
    Ok(())
}

async fn open_store(config: &Config) -> anyhow::Result<(Arc<dyn Engine>, Blobs, Option<OnDisk>)> {
    if config.store.engine == EngineKind::Memory {
        tracing::warn!("store.engine is memory: everything is forgotten at the end");
        return Ok((Arc::new(Memory::default()), Blobs::memory(), None));
    }
    let (path, settings) = (config.store.path.clone(), engine_settings(config));
    let engine = tokio::task::spawn_blocking(move || {
        Embedded::open(&path, settings)
            .with_context(|| format!("the store in {} (setting store.path) cannot be opened", path.display()))
    });
    let engine = Arc::new(engine.await??);
    let (blobs, blobs_folder) = open_blobs(config).await?;
    Ok((engine.clone(), blobs, Some(OnDisk { engine, folder: config.store.path.clone(), blobs_folder })))
}

/// Opens the place of blobs, and gives its folder if that belongs into a backup. The store is open already: nobody else
/// can have them open.
pub async fn open_blobs(config: &Config) -> anyhow::Result<(Blobs, Option<PathBuf>)> {
    match config.blob_place()? {
        BlobPlace::Folder { path, in_store } => {
            let folder = path.clone();
            let blobs = tokio::task::spawn_blocking(move || Blobs::open(&folder)).await?.with_context(|| {
                format!("the folder of blobs {} (setting blobs.url) cannot be opened", path.display())
            })?;
            Ok((blobs, in_store.then_some(path)))
        }
        BlobPlace::S3(settings) => {
            let staging = config.store.path.join("staging");
            let blobs = Blobs::open_remote(&settings, &staging).await;
            let blobs = blobs.with_context(|| format!("{} (setting blobs.url) cannot be opened", config.blobs.url))?;
            Ok((blobs, None))
        }
    }
}

fn admission(account: &str, roles: &str, default_roles: &str, creates_users: bool) -> Admission {
    Admission {
        account: account.to_owned(),
        // They were looked at when the settings were read.
        roles: role_pairs(roles).unwrap_or_default(),
        default_roles: external::names(default_roles),
        creates_users,
    }
}

fn openid_settings(config: &Config) -> Option<openid::Settings> {
    let set = Some(&config.openid).filter(|set| !set.issuer.is_empty())?;
    Some(openid::Settings {
        issuer: set.issuer.clone(),
        client_id: set.client_id.clone(),
        client_secret: set.client_secret.clone(),
        scopes: set.scopes.split_whitespace().map(str::to_owned).collect(),
        login_claim: set.login_claim.clone(),
        groups_claim: set.groups_claim.clone(),
        redirect_url: format!("{}{API_BASE}/session/openid/callback", config.http.public_url.trim_end_matches('/')),
        admission: admission(&set.account, &set.roles, &set.default_roles, set.create_users),
    })
}

fn ldap_settings(config: &Config) -> Option<ldap::Settings> {
    let set = Some(&config.ldap).filter(|set| !set.url.is_empty())?;
    Some(ldap::Settings {
        url: set.url.clone(),
        start_tls: set.start_tls,
        bind_dn: set.bind_dn.clone(),
        bind_password: set.bind_password.clone(),
        base_dn: set.base_dn.clone(),
        filter: set.filter.clone(),
        name_attribute: set.name_attribute.clone(),
        email_attribute: set.email_attribute.clone(),
        groups_attribute: set.groups_attribute.clone(),
        admission: admission(&set.account, &set.roles, &set.default_roles, set.create_users),
    })
}

fn telemetry_rules(config: &Config) -> Option<TelemetryRules> {
    let set = Some(&config.telemetry).filter(|set| !set.endpoint.is_empty() && (set.traces || set.logs))?;
    Some(TelemetryRules {
        endpoint: set.endpoint.clone(),
        // They were looked at when the settings were read.
        headers: telemetry_client::headers(&set.headers).unwrap_or_default(),
        traces: set.traces,
        logs: set.logs,
        timeout_seconds: set.timeout_seconds,
    })
}

fn rules(config: &Config) -> Rules {
    Rules {
        leases: Leases {
            job_seconds: config.leases.job_seconds,
            accept_seconds: config.leases.accept_seconds,
            lost_after_seconds: config.leases.lost_after_seconds,
        },
        heartbeat_seconds: config.heartbeat_seconds(),
        limits: Limits {
            package_bytes: config.limits.package_mib * MIB,
            artifact_bytes: config.limits.artifact_mib * MIB,
            file_bytes: config.limits.file_mib * MIB,
            job_log_bytes: config.limits.job_log_mib * MIB,
            requests_per_second: config.limits.requests_per_second,
        },
        public_metrics: config.metrics.public,
        public_url: config.http.public_url.clone(),
        webhooks: WebhookRules {
            allow_private_targets: config.webhooks.allow_private_targets,
            timeout_seconds: config.webhooks.timeout_seconds,
        },
        mail: MailRules {
            host: config.mail.host.clone(),
            port: config.mail.port(),
            tls: config.mail.tls,
            from: config.mail.from.clone(),
            user: config.mail.user.clone(),
            password: config.mail.password.clone(),
        },
        telemetry: telemetry_rules(config),
        audit_retention_days: config.audit_retention_days(),
        openid: openid_settings(config),
        ldap: ldap_settings(config),
        sessions: SessionRules {
            idle_seconds: config.sessions.idle_minutes * 60,
            lifetime_seconds: config.sessions.lifetime_hours * 3600,
            encrypted: !config.http.certificate_file.as_os_str().is_empty(),
        },
    }
}

fn fingerprint_key() -> Vec<u8> {
    Key::new(Kind::System, SYSTEM_ACCOUNT).with("secrets fingerprint").into_bytes()
}

fn sealing_key() -> Vec<u8> {
    Key::new(Kind::System, SYSTEM_ACCOUNT).with("sealing fingerprint").into_bytes()
}

/// Makes the first account; gives its administrator's key unless that came from the settings.
pub async fn first_account(
    db: &Db,
    config: &Config,
    secrets: &Arc<Secrets>,
    randomness: &dyn Randomness,
) -> anyhow::Result<Option<String>> {
    let bootstrap = &config.bootstrap;
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let password_hash = match given(&bootstrap.password) {
        Some(password) => Some(password::hash(&password, randomness)?),
        None => None,
    };
    let wanted = Bootstrap {
        account: bootstrap.account.clone(),
        login: bootstrap.login.clone(),
        name: String::new(),
        email: None,
        password_hash,
        api_key: given(&bootstrap.api_key),
        runs_system: true,
        audit_retention_days: config.audit_retention_days(),
    };
    let is_given = wanted.api_key.is_some();
    let account = AccountId::from_uuid(db.new_id());
    let secrets = Arc::clone(secrets);
    let text = db
        .write(account, move |tx| {
            tx.put(fingerprint_key(), secrets.fingerprint().to_vec())?;
            tx.put(sealing_key(), secrets.sealing_fingerprint().to_vec())?;
            account::bootstrap(tx, account, &wanted, &secrets)
        })
        .await?;
    Ok((!is_given).then_some(text))
}

/// A key file of another store would make every key unknown; that is said at once and not found out later.
fn check_fingerprint(db: &Db, secrets: &Secrets, path: &Path) -> anyhow::Result<()> {
    let kept = db.read(SYSTEM_ACCOUNT, |reading| Ok(reading.view().get(&fingerprint_key())?))?;
    if kept.is_some_and(|kept| kept != secrets.fingerprint()) {
        bail!("the key file {} is not the one of this store; put the right one there", path.display());
    }
    let sealing = db.read(SYSTEM_ACCOUNT, |reading| Ok(reading.view().get(&sealing_key())?))?;
    if sealing.is_some_and(|kept| !secrets.has_sealing_key(&kept)) {
        bail!(
            "the key file {} is of another time: what this store holds is sealed with another key; put the file there \
             that was in use when the store was (or its backup was made)",
            path.display()
        );
    }
    Ok(())
}

impl Running {
    /// Serves until `app.stopping` is cancelled, then ends everything in order.
    pub async fn serve(self) -> anyhow::Result<()> {
        http::serve(self.server, Arc::clone(&self.app), self.patience).await;
        self.background.ended().await;
        let (db, engine) = (Arc::clone(&self.app.db), self.engine);
        tokio::task::spawn_blocking(move || {
            db.close();
            match engine {
                Some(engine) => {
                    engine.close().map_err(|error| anyhow::anyhow!("the store was not closed cleanly: {error}"))
                }
                None => Ok(()),
            }
        })
        .await?
    }
}

/// Gives a user of a stopped coordinator a new own key, in whichever account has a user of this login.
pub async fn new_key(config: &Config, login: &str) -> anyhow::Result<String> {
    let (engine, _, on_disk) = open_store(config).await?;
    let randomness = Arc::new(SystemRandomness);
    let secrets = Arc::new(Secrets::open(&config.key_file(), false, &*randomness)?);
    let db = Db::new(engine, Arc::new(SystemClock), randomness, Box::new(broken));
    check_fingerprint(&db, &secrets, &config.key_file())?;
    let mut found = None;
    for account in db.read(SYSTEM_ACCOUNT, |reading| account::all(reading))? {
        let (login, secrets) = (login.to_owned(), Arc::clone(&secrets));
        found = db.write(account, move |tx| key::replace_for_login(tx, &login, &secrets)).await?;
        if found.is_some() {
            break;
        }
    }
    db.close();
    if let Some(on_disk) = on_disk {
        on_disk.engine.close().map_err(|error| anyhow::anyhow!("the store was not closed cleanly: {error}"))?;
    }
    found.with_context(|| format!("there is no user with the login {login}"))
}

/// Records that are sealed anew together.
/// Entries of an index that one transaction writes anew.
const RENEWED_PAGE: usize = 1_000;
const RESEAL_PAGE: usize = 200;

/// Changes the sealing key of a stopped coordinator, and seals everything anew; how many secrets that were.
///
/// At every moment the key file can open all that is sealed: it gets the new key before anything is sealed with that, and
/// loses the old one when everything is, and is on the disk.
pub async fn rotate_key(config: &Config) -> anyhow::Result<usize> {
    let (engine, _, on_disk) = open_store(config).await?;
    let randomness = Arc::new(SystemRandomness);
    let path = config.key_file();
    let db = Db::new(engine, Arc::new(SystemClock), randomness.clone(), Box::new(broken));
    check_fingerprint(&db, &Secrets::open(&path, false, &*randomness)?, &path)?;
    let secrets = Arc::new(Secrets::begin_rotation(&path, &*randomness)?);
    let fingerprint = secrets.sealing_fingerprint();
    // From here on a key file without the new key is refused.
    db.write(SYSTEM_ACCOUNT, move |tx| tx.put(sealing_key(), fingerprint.to_vec())).await?;
    let sealed = reseal_all(&db, &secrets).await?;
    if reseal_all(&db, &secrets).await? != 0 {
        bail!("something was sealed with the old key meanwhile; call it again");
    }
    db.close();
    if let Some(on_disk) = on_disk {
        on_disk.engine.close().map_err(|error| anyhow::anyhow!("the store was not closed cleanly: {error}"))?;
    }
    Secrets::end_rotation(&path)?;
    Ok(sealed)
}

/// Seals all that is not sealed with the newest key; how many secrets that were.
pub async fn reseal_all(db: &Db, secrets: &Arc<Secrets>) -> anyhow::Result<usize> {
    let mut count = 0;
    for account in db.read(SYSTEM_ACCOUNT, |reading| account::all(reading))? {
        for kind in rotation::SEALED {
            let mut after = None;
            loop {
                let secrets = Arc::clone(secrets);
                let page = move |tx: &mut Tx| rotation::reseal_page(tx, kind, &secrets, after, RESEAL_PAGE);
                let (sealed, next) = db.write(account, page).await?;
                count += sealed;
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
    }
    Ok(count)
}

/// The store, blobs and secrets of a coordinator that is stopped.
struct Stopped {
    db: Db,
    blobs: Blobs,
    secrets: Arc<Secrets>,
    on_disk: Option<OnDisk>,
}

impl Stopped {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        let (engine, blobs, on_disk) = open_store(config).await?;
        let randomness = Arc::new(SystemRandomness);
        let secrets = Arc::new(Secrets::open(&config.key_file(), false, &*randomness)?);
        let db = Db::new(engine, Arc::new(SystemClock), randomness, Box::new(broken));
        check_fingerprint(&db, &secrets, &config.key_file())?;
        Ok(Self { db, blobs, secrets, on_disk })
    }

    fn close(self) -> anyhow::Result<()> {
        self.db.close();
        match self.on_disk {
            Some(on_disk) => {
                on_disk.engine.close().map_err(|error| anyhow::anyhow!("the store was not closed cleanly: {error}"))
            }
            None => Ok(()),
        }
    }
}

/// Writes an account of a stopped coordinator into a file.
pub async fn export_account(
    config: &Config,
    account: String,
    passphrase: String,
    to: PathBuf,
) -> anyhow::Result<Taken> {
    let stopped = Stopped::open(config).await?;
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let parts = (&stopped.db, &stopped.blobs, &stopped.secrets);
        let taken = account_archive::export(&handle, parts, &account, &passphrase, &to);
        stopped.close()?;
        taken
    })
    .await?
}

/// Takes an account into a stopped coordinator from a file.
pub async fn import_account(
    config: &Config,
    from: PathBuf,
    passphrase: String,
    name: Option<String>,
) -> anyhow::Result<Taken> {
    let stopped = Stopped::open(config).await?;
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let parts = (&stopped.db, &stopped.blobs, &stopped.secrets);
        let taken = account_archive::import(&handle, parts, &from, &passphrase, name.as_deref());
        stopped.close()?;
        taken
    })
    .await?
}
