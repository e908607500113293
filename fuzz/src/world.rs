//! A coordinator in memory, the same every time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use drover_coordinator::{
    app::{App, Limits, Rules},
    clock::{Clock, Randomness},
    domain::job::Leases,
    mail_client::MailRules,
    operations::{
        account::{self, Bootstrap},
        session::SessionRules,
    },
    secrets::Secrets,
    store::{Db, blob::Blobs, memory::Memory},
    webhook_client::WebhookRules,
};
use drover_protocol::{AccountId, Timestamp};
use uuid::Uuid;

pub const ADMIN_KEY: &str = "OTFiMmE3YzQtN2QzZS00ZjVhLThiNmMtMWQyZTNmNGE1YjZj";

struct Standing;

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000)
    }
}

/// Numbers that are never the same twice, which is all that is needed here.
struct Counting(AtomicU64);

impl Randomness for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let number = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).to_be_bytes();
            piece.copy_from_slice(&number[..piece.len()]);
        }
    }
}

pub fn db() -> Arc<Db> {
    Arc::new(Db::inline(Arc::new(Memory::default()), Arc::new(Standing), Arc::new(Counting(AtomicU64::new(1)))))
}

/// With an account whose administrator has [`ADMIN_KEY`].
pub async fn app() -> Arc<App> {
    let rules = Rules {
        leases: Leases { job_seconds: 60, accept_seconds: 30, lost_after_seconds: 300 },
        heartbeat_seconds: 20,
        limits: Limits {
            package_bytes: 1 << 20,
            artifact_bytes: 1 << 20,
            file_bytes: 1 << 20,
            job_log_bytes: 256 << 20,
            requests_per_second: 0,
        },
        public_metrics: true,
        public_url: String::new(),
        webhooks: WebhookRules { allow_private_targets: false, timeout_seconds: 15 },
        mail: MailRules::none(),
        telemetry: None,
        audit_retention_days: None,
        openid: None,
        ldap: None,
        sessions: SessionRules { idle_seconds: 3600, lifetime_seconds: 86_400, encrypted: false },
    };
    let secrets = Arc::new(Secrets::from_bytes(&[3; 32]));
    let app = App::new(db(), Arc::new(Blobs::memory()), Arc::clone(&secrets), rules, None);
    let account = AccountId::from_uuid(Uuid::from_u128(1));
    let wanted = Bootstrap {
        account: "main".to_owned(),
        login: "admin".to_owned(),
        password_hash: None,
        api_key: Some(ADMIN_KEY.to_owned()),
        name: String::new(),
        email: None,
        runs_system: true,
        audit_retention_days: None,
    };
    app.db.write(account, move |tx| account::bootstrap(tx, account, &wanted, &secrets)).await.expect("an account");
    app
}
