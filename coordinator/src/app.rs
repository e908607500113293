//! What all parts of a running coordinator share.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use drover_protocol::{AccountId, KeyId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::job::Leases,
    error::{Error, Result},
    external::{
        ldap::{self, Directory},
        openid::{self, Provider},
    },
    json_schema::Schemas,
    manifests::Manifests,
    operations::session::SessionRules,
    password::Guesses,
    queue_schemas::QueueSchemas,
    secrets::Secrets,
    store::{Db, Reader, backup::BlobHold, blob::Blobs, embedded::Embedded},
};

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
    pub openid: Option<Provider>,
    pub directory: Option<Directory>,
    /// Searches of logs that may still begin.
    pub searches: Arc<Semaphore>,
    pub metrics: crate::http::metrics::Metrics,
}

impl App {
    pub fn new(
        db: Arc<Db>,
        blobs: Arc<Blobs>,
        secrets: Arc<Secrets>,
        rules: Rules,
        on_disk: Option<OnDisk>,
    ) -> Arc<Self> {
        let openid = rules.openid.clone().map(Provider::new);
        let directory = rules.ldap.clone().map(Directory::new);
        Arc::new(Self {
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
            metrics: crate::http::metrics::Metrics::default(),
        })
    }

    /// A look at the store that may take long, off the threads that serve requests.
    pub async fn read_aside<R: Send + 'static>(
        &self,
        account: AccountId,
        body: impl FnOnce(&Reader) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let db = Arc::clone(&self.db);
        let read = tokio::task::spawn_blocking(move || db.read(account, body));
        read.await.map_err(|error| Error::Internal(format!("a look at the store did not end: {error}")))?
    }
}
