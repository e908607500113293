//! What all parts of a running coordinator share.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use drover_protocol::{AccountId, KeyId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{disk::Forecast, job::Leases},
    error::{Error, Result},
    external::{
        ldap::{self, Directory},
        openid::{self, Provider},
    },
    json_schema::Schemas,
    mail_client::{MailClient, MailRules},
    manifests::Manifests,
    operations::{self, alert_watch::Disk, session::SessionRules},
    password::Guesses,
    queue_schemas::QueueSchemas,
    secrets::Secrets,
    store::{Db, Reader, backup::BlobHold, blob::Blobs, disk, embedded::Embedded, key::SYSTEM_ACCOUNT},
    telemetry_client::{TelemetryClient, TelemetryRules},
    webhook_client::{WebhookClient, WebhookRules},
};

/// First pages that are put together at once.
const MAX_OVERVIEWS: usize = 4;

/// Sizes that the operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest package, in bytes.
    pub package_bytes: u64,
    /// The largest artifact, in bytes.
    pub artifact_bytes: u64,
    /// The largest file of a storage folder, in bytes.
    pub file_bytes: u64,
    /// The longest log of a job's attempt, in bytes; the middle of a longer one is left out.
    pub job_log_bytes: u64,
    /// Requests of one key in a second, on average; 0: any number.
    pub requests_per_second: u32,
}

/// Settings that requests depend on.
#[derive(Clone, Debug)]
pub struct Rules {
    pub leases: Leases,
    pub heartbeat_seconds: u64,
    pub limits: Limits,
    /// Whether `/metrics` is open to everybody.
    pub public_metrics: bool,
    /// The root under which people reach the coordinator; empty: whatever they called.
    pub public_url: String,
    pub webhooks: WebhookRules,
    pub mail: MailRules,
    /// Where traces and logs go, if anywhere.
    pub telemetry: Option<TelemetryRules>,
    pub sessions: SessionRules,
    /// Other ways to sign in, if there are any.
    pub openid: Option<openid::Settings>,
    pub ldap: Option<ldap::Settings>,
    /// For so many days acts are kept at the least; absent: for ever.
    pub audit_retention_days: Option<u32>,
}

/// What lies on the disk.
#[derive(Clone)]
pub struct OnDisk {
    pub engine: Arc<Embedded>,
    /// The store's folder.
    pub folder: PathBuf,
    /// Blobs that belong into a backup; absent when they lie outside of the store's folder.
    pub blobs_folder: Option<PathBuf>,
}

pub struct App {
    pub db: Arc<Db>,
    pub blobs: Arc<Blobs>,
    pub secrets: Arc<Secrets>,
    pub rules: Rules,
    pub manifests: Manifests,
    pub schemas: Schemas,
    pub queue_schemas: QueueSchemas,
    /// What a backup is made of; absent when everything lies in memory.
    pub on_disk: Option<OnDisk>,
    pub blob_hold: Arc<BlobHold>,
    /// Cancelled when the coordinator is to stop: long polls and streams end then.
    pub stopping: CancellationToken,
    /// Keys whose last use is being written down, so that each is written once.
    pub touching: Arc<Mutex<HashSet<KeyId>>>,
    pub guesses: Guesses,
    pub rates: crate::http::rate::Rates,
    pub openid: Option<Provider>,
    pub directory: Option<Directory>,
    /// Searches of logs that may still begin.
    pub searches: Arc<Semaphore>,
    /// First pages that may be put together at once.
    pub overviews: Semaphore,
    pub metrics: crate::http::metrics::Metrics,
    pub webhooks: WebhookClient,
    pub mail: MailClient,
    pub telemetry: Option<TelemetryClient>,
}

impl App {
    pub fn new(
        db: Arc<Db>,
        blobs: Arc<Blobs>,
        secrets: Arc<Secrets>,
        rules: Rules,
        on_disk: Option<OnDisk>,
    ) -> Arc<Self> {
        let webhooks = WebhookClient::new(rules.webhooks);
        let mail = MailClient::new(rules.mail.clone());
        let telemetry = rules.telemetry.clone().map(TelemetryClient::new);
        if telemetry.as_ref().is_some_and(TelemetryClient::takes_traces) {
            db.trace();
        }
        let openid = rules.openid.clone().map(Provider::new);
        let directory = rules.ldap.clone().map(Directory::new);
        Arc::new(Self {
            rates: crate::http::rate::Rates::new(rules.limits.requests_per_second),
            db,
            blobs,
            secrets,
            rules,
            manifests: Manifests::default(),
            schemas: Schemas::default(),
            queue_schemas: QueueSchemas::default(),
            on_disk,
            blob_hold: Arc::default(),
            stopping: CancellationToken::new(),
            touching: Arc::default(),
            guesses: Guesses::default(),
            openid,
            directory,
            searches: crate::log_search::permits(),
            overviews: Semaphore::new(MAX_OVERVIEWS),
            metrics: crate::http::metrics::Metrics::default(),
            webhooks,
            mail,
            telemetry,
        })
    }

    /// How much room the disk of the store has; nothing is known of a store in memory.
    pub fn disk(&self) -> Option<Disk> {
        let (free_bytes, total_bytes) = disk::space(&self.on_disk.as_ref()?.folder).ok()?;
        Some(Disk { free_bytes, total_bytes, is_full: self.db.read_only() })
    }

    /// When that disk is full, if its use goes on to grow as lately; absent while too little is known.
    pub fn disk_forecast(&self) -> Result<Option<Forecast>> {
        let Some(disk) = self.disk() else { return Ok(None) };
        self.db.read(SYSTEM_ACCOUNT, |reading| operations::disk::forecast(reading, &disk))
    }

    /// A look at the store that may take long, off the threads that serve requests.
    pub async fn read_aside<R: Send + 'static>(
        &self,
        account: AccountId,
        body: impl FnOnce(&Reader) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.aside(move |db| db.read(account, body)).await
    }

    /// The same for one that takes so long that commits must not wait for it: see [`Db::read_in_parts`].
    pub async fn read_aside_in_parts<R: Send + 'static>(
        &self,
        account: AccountId,
        body: impl FnOnce(&Reader) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.aside(move |db| db.read_in_parts(account, body)).await
    }

    async fn aside<R: Send + 'static>(&self, look: impl FnOnce(&Db) -> Result<R> + Send + 'static) -> Result<R> {
        let db = Arc::clone(&self.db);
        let read = tokio::task::spawn_blocking(move || look(&db));
        read.await.map_err(|error| Error::Internal(format!("a look at the store did not end: {error}")))?
    }
}
