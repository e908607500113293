//! Keys: two letters for the kind, the account, then big-endian parts, so that byte order is the order of meaning.
//!
//! The account stands in every key right after the kind: no scan can cross from one account into another.

use drover_protocol::{
    AccountId, AlertId, DeliveryId, EventId, FileId, FolderId, JobId, JoinTokenId, KeyId, LogBlockId, NewsId,
    ProcessId, ProcessVersionId, QueueId, RaisedAlertId, ResourceId, RobotGroupId, RobotId, RoleId, TaskId, Timestamp,
    TriggerId, UserId, WebhookId,
};
use uuid::Uuid;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $bytes:literal,)*) => {
        /// Every kind of key there is. Append only: a kind is never renamed, renumbered or used again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The two letters that its keys begin with.
            pub const fn bytes(self) -> [u8; 2] {
                match self { $(Kind::$name => *$bytes),* }
            }

            /// The kind of a key, if it is one of ours.
            pub fn of(key: &[u8]) -> Option<Kind> {
                match key.get(..2)? { $($bytes => Some(Kind::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Account record; lies in the system account.
    Account = b"ac",
    /// System account: hash of an API key → account and key id.
    KeyByHash = b"kh",
    /// System account: hash of a join token → account and token id.
    JoinTokenByHash = b"jh",
    User = b"us",
    UserByLogin = b"ul",
    ApiKey = b"ky",
    ApiKeyByOwner = b"ko",
    JoinToken = b"jt",
    Robot = b"rb",
    RobotByName = b"rn",
    RobotByMachine = b"rm",
    RobotByGroup = b"rg",
    /// Ring of health samples: robot, minute of the day.
    HealthSample = b"hs",
    RobotGroup = b"gr",
    RobotGroupByName = b"gn",
    Process = b"pr",
    ProcessByName = b"pn",
    ProcessVersion = b"vr",
    ProcessVersionByNumber = b"vn",
    ProcessVersionBySha = b"vs",
    Job = b"jb",
    /// State of unfinished jobs, outcome of finished ones.
    JobByPhase = b"js",
    JobByProcess = b"jp",
    JobByVersion = b"jv",
    /// Every job that the robot has or had last.
    JobByRobot = b"jr",
    /// Jobs that the robot holds now.
    JobHeld = b"jo",
    /// Jobs of a process that some robot holds now.
    JobActive = b"ja",
    /// Waiting jobs that may be assigned: target, version, priority, time.
    JobReady = b"jq",
    /// When the coordinator must look at the job again by itself.
    JobDeadline = b"jd",
    Attempt = b"at",
    /// JSON of an object, in pieces: object, slot, piece.
    Document = b"do",
    /// Event: object, event id.
    Event = b"ev",
    /// How far the log of a job's attempt is.
    LogHead = b"lh",
    /// Log heads with chunks that can be sealed.
    LogHeadUnsealed = b"lu",
    /// Lines as received: job, attempt, first line.
    LogChunk = b"lc",
    /// Sealed lines: job, attempt, first line.
    LogBlock = b"lb",
    LogBlockByTime = b"lt",
    LogBlockByBlob = b"ls",
    File = b"fi",
    FileByPath = b"fp",
    /// Answer to a repeated call: key, idempotency key.
    Idempotency = b"id",
    IdempotencyByExpiry = b"ix",
    /// Blob that nobody refers to any more.
    Garbage = b"bg",
    /// System account: facts about the store itself.
    System = b"sy",
    Queue = b"qu",
    QueueByName = b"qn",
    /// How many tasks of a queue are in which phase.
    QueueCounters = b"qc",
    /// What happened in one hour: queue, hour.
    QueueHour = b"qh",
    Task = b"tk",
    /// Queue, phase: in the order of taking as far as tasks are ready.
    TaskByPhase = b"ts",
    /// Reference, queue.
    TaskByReference = b"tr",
    /// Queue, tag, phase.
    TaskByTag = b"tg",
    /// When the coordinator must look at the task by itself.
    TaskDue = b"to",
    /// Jobs whose tasks are still to be settled: job, attempt.
    TaskSettling = b"te",
    /// Tasks that an attempt of a job holds now: job, attempt.
    TaskByJob = b"tj",
    /// Ready tasks with a deadline: queue, tag (also the empty one), deadline. Read no more: [`Kind::TaskByLateness`] took its
    /// place, and what is left of it is written anew at the start.
    TaskByDeadline = b"td",
    /// Attempts before the newest: task, attempt.
    TaskAttempt = b"ta",
    Resource = b"rs",
    ResourceByName = b"ra",
    /// Resources that expire, by when.
    ResourceByExpiry = b"rx",
    /// One version of a value: resource, number.
    ResourceValue = b"rv",
    /// The value that counts: resource, scope.
    ResourceValueCurrent = b"ro",
    /// All versions of a value: resource, scope.
    ResourceValueByScope = b"rh",
    /// All versions of the values of one robot or group.
    ResourceValueByHolder = b"rr",
    /// The audit trail: number.
    Audit = b"au",
    AuditByActor = b"aa",
    AuditByNoun = b"an",
    AuditByObject = b"ao",
    /// The last act's number, hash and time.
    AuditHead = b"ah",
    /// Files of a folder that people made, by the time they were written.
    FileByTime = b"ft",
    StorageFolder = b"sf",
    StorageFolderByName = b"sn",
    /// Folders whose files end by age.
    StorageFolderRetained = b"sr",
    /// Deleted folders that still have files.
    StorageFolderDeleted = b"sd",
    /// Files that use the content of another one, of which they are copies.
    FileByContent = b"su",
    /// Sealed lines that a search can find: span, last time.
    LogBlockBySpan = b"lg",
    /// The same by the robot that said them.
    LogBlockByRobot = b"lr",
    /// The same by the process.
    LogBlockByProcess = b"lw",
    /// Logs with lines that are not sealed yet.
    LogActive = b"la",
    /// Which lines have arrived, in the order of their arrival, for those who follow all logs; kept for a while.
    LogArrival = b"li",
    Trigger = b"zt",
    TriggerByName = b"zn",
    /// When the coordinator must look at the trigger by itself.
    TriggerDue = b"zd",
    /// What became of an instant: trigger, instant, occasion.
    TriggerFire = b"zh",
    TriggerFireByTime = b"zf",
    TriggerByProcess = b"zp",
    TriggerByTarget = b"zg",
    TriggerByCalendar = b"zc",
    JobByTrigger = b"zj",
    /// Jobs of a trigger that have not finished.
    JobActiveByTrigger = b"za",
    /// Lines of a bulk addition that came under a key: stream, first line.
    TaskBatch = b"tb",
    TaskBatchByExpiry = b"tx",
    /// Which types of news somebody of the account wants.
    NewsWanted = b"nw",
    /// News that wait to be handed out.
    News = b"no",
    /// Robots that were heard of, by when they are offline unless they are heard of again.
    RobotByOffline = b"nl",
    Webhook = b"nh",
    WebhookByName = b"nn",
    /// How a webhook fares.
    WebhookFaring = b"nf",
    /// News on their way to a webhook, or that were.
    Delivery = b"nd",
    DeliveryByWebhook = b"nv",
    /// Deliveries that wait: webhook, time of the next try.
    DeliveryDue = b"nt",
    Alert = b"na",
    AlertByName = b"nb",
    /// What alerts have raised.
    Raised = b"nr",
    RaisedByAlert = b"ns",
    /// What is not over: alert, object.
    RaisedBySubject = b"nu",
    /// All that is not over.
    RaisedOpen = b"np",
    /// E-mails on their way.
    Mail = b"nm",
    MailDue = b"ne",
    /// Triggers that start jobs for the tasks of a queue.
    TriggerByQueue = b"zq",
    /// Fires of occasions that may fire only once: trigger, occasion.
    TriggerFireByOccasion = b"zo",
    /// System account: hash of the last part of a webhook's address → account and trigger id.
    HookByHash = b"zw",
    /// How far a trigger has come in its mailbox.
    MailMark = b"zm",
    /// Triggers by when they look into their mailboxes.
    MailMarkDue = b"zl",
    /// Triggers that fire on one type of news.
    TriggerByEvent = b"ze",
    /// What has happened and a trigger is still to fire for: trigger, news.
    TriggerPending = b"zv",
    /// How many jobs have finished in an hour, by outcome.
    JobHour = b"ng",
    /// A role that people made.
    OwnRole = b"ur",
    OwnRoleByName = b"un",
    /// From which act on the audit trail is kept.
    AuditCheckpoint = b"uc",
    /// What has ended and waits to be exported in a trace.
    Unexported = b"ot",
    /// How far the logs of the account are exported.
    LogsExported = b"ol",
    /// What has happened in the account, in numbers.
    Totals = b"ut",
    /// Ready tasks with a deadline: queue, tag (also the empty one), deadline, phase.
    TaskByLateness = b"tf",
}

/// Accounts, hashes of keys and the like lie in this account of their own.
pub const SYSTEM_ACCOUNT: AccountId = AccountId::from_uuid(Uuid::nil());

/// A key being built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new(kind: Kind, account: AccountId) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&kind.bytes());
        bytes.extend_from_slice(account.uuid().as_bytes());
        Self(bytes)
    }

    /// Adds a part.
    pub fn with(mut self, part: impl KeyPart) -> Self {
        part.append(&mut self.0);
        self
    }

    /// The whole key with parts that are bytes already.
    pub fn with_bytes(mut self, parts: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(parts);
        self.0
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Something that can stand in a key: its bytes sort as its values do, and no value's bytes begin another's.
pub trait KeyPart {
    fn append(&self, key: &mut Vec<u8>);

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        self.append(&mut bytes);
        bytes
    }
}

macro_rules! number_parts {
    ($($number:ty),*) => { $(impl KeyPart for $number {
        fn append(&self, key: &mut Vec<u8>) {
            key.extend_from_slice(&self.to_be_bytes());
        }
    })* };
}
number_parts!(u8, u16, u32, u64);

macro_rules! id_parts {
    ($($id:ty),*) => { $(impl KeyPart for $id {
        fn append(&self, key: &mut Vec<u8>) {
            key.extend_from_slice(self.uuid().as_bytes());
        }
    })* };
}
id_parts!(
    AccountId,
    AlertId,
    DeliveryId,
    EventId,
    FileId,
    FolderId,
    JobId,
    JoinTokenId,
    KeyId,
    LogBlockId,
    NewsId,
    ProcessId,
    ProcessVersionId,
    QueueId,
    RaisedAlertId,
    ResourceId,
    RobotGroupId,
    RobotId,
    RoleId,
    TaskId,
    TriggerId,
    UserId,
    WebhookId
);

/// No part at all: for scans over a whole kind.
impl KeyPart for () {
    fn append(&self, _key: &mut Vec<u8>) {}
}

impl KeyPart for Uuid {
    fn append(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self.as_bytes());
    }
}

impl KeyPart for Timestamp {
    fn append(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(&self.millis().unsigned_abs().to_be_bytes());
    }
}

impl<const N: usize> KeyPart for [u8; N] {
    fn append(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self);
    }
}

/// Text of any length: a zero byte inside is escaped, a bare one ends it, so that "a" sorts before "a b" and after "".
impl KeyPart for &str {
    fn append(&self, key: &mut Vec<u8>) {
        for byte in self.bytes() {
            key.push(byte);
            if byte == 0 {
                key.push(0xff);
            }
        }
        key.push(0);
    }
}

/// The beginning of a text, for scans over all texts that begin so.
#[derive(Clone, Copy, Debug)]
pub struct TextPrefix<'a>(pub &'a str);

impl KeyPart for TextPrefix<'_> {
    fn append(&self, key: &mut Vec<u8>) {
        self.0.append(key);
        key.pop();
    }
}

impl KeyPart for String {
    fn append(&self, key: &mut Vec<u8>) {
        self.as_str().append(key);
    }
}

impl<A: KeyPart, B: KeyPart> KeyPart for (A, B) {
    fn append(&self, key: &mut Vec<u8>) {
        self.0.append(key);
        self.1.append(key);
    }
}

impl<A: KeyPart, B: KeyPart, C: KeyPart> KeyPart for (A, B, C) {
    fn append(&self, key: &mut Vec<u8>) {
        self.0.append(key);
        self.1.append(key);
        self.2.append(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds are on people's disks: their letters may be added to, never changed.
    #[test]
    fn kinds_keep_their_letters() {
        let letters: Vec<String> =
            Kind::ALL.iter().map(|kind| String::from_utf8_lossy(&kind.bytes()).into_owned()).collect();
        assert_eq!(
            letters.join(" "),
            "ac kh jh us ul ky ko jt rb rn rm rg hs gr gn pr pn vr vn vs jb js jp jv jr jo ja jq jd at do ev lh lu lc \
             lb lt ls fi fp id ix bg sy qu qn qc qh tk ts tr tg to te tj td ta \
             rs ra rx rv ro rh rr au aa an ao ah ft sf sn sr sd su lg lr lw la li zt zn zd zh zf zp zg zc zj za \
             tb tx nw no nl nh nn nf nd nv nt na nb nr ns nu np nm ne zq zo zw zm zl ze zv ng ur un uc ot ol ut tf"
        );
        let mut unique = letters.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), letters.len());
    }

    #[test]
    fn texts_sort_as_texts_and_never_run_into_the_next_part() {
        let key = |text: &str, number: u8| (text, number).to_bytes();
        let mut keys = vec![key("a b", 0), key("a", 255), key("a\0", 1), key("", 9), key("b", 0), key("a", 0)];
        keys.sort();
        assert_eq!(keys, vec![key("", 9), key("a", 0), key("a", 255), key("a\0", 1), key("a b", 0), key("b", 0)]);
    }
}
