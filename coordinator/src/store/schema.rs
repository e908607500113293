//! Every record of the store with its indexes and version, on one page.

use drover_protocol::{
    AccountId, EventId, FileId, JobId, JoinTokenId, KeyId, ProcessId, ProcessVersionId, RobotGroupId, RobotId, UserId,
    job::JobState,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    key::{KeyPart, Kind},
    table::{IndexEntry, Record, index_keys_of},
};
use crate::{
    domain::{
        account::{Account, User},
        attempt::Attempt,
        event::Event,
        file::File,
        garbage::Garbage,
        idempotency::Answer,
        job::{Job, State, Target},
        key::{ApiKey, JoinToken, Owner},
        log::{LogBlock, LogHead},
        process::{Process, ProcessVersion},
        robot::{Robot, RobotGroup, Sample},
    },
    error::Result,
};

impl Record for Account {
    const KIND: Kind = Kind::Account;
    const NOUN: &'static str = "account";
    type Id = AccountId;

    fn id(&self) -> AccountId {
        self.id
    }

    fn touch(&mut self) {
        self.revision += 1;
    }
}

impl Record for User {
    const KIND: Kind = Kind::User;
    const NOUN: &'static str = "user";
    type Id = UserId;

    fn id(&self) -> UserId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::unique(Kind::UserByLogin, self.login.as_str())]
    }

    fn touch(&mut self) {
        self.revision += 1;
    }
}

impl KeyPart for Owner {
    fn append(&self, key: &mut Vec<u8>) {
        match self {
            Self::User(user) => (1u8, *user).append(key),
            Self::Robot(robot) => (2u8, *robot).append(key),
            Self::Job { job, attempt, .. } => (3u8, *job, *attempt).append(key),
        }
    }
}

impl Record for ApiKey {
    const KIND: Kind = Kind::ApiKey;
    const NOUN: &'static str = "key";
    type Id = KeyId;

    fn id(&self) -> KeyId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::many(Kind::ApiKeyByOwner, self.owner)]
    }
}

impl Record for JoinToken {
    const KIND: Kind = Kind::JoinToken;
    const NOUN: &'static str = "join token";
    type Id = JoinTokenId;

    fn id(&self) -> JoinTokenId {
        self.id
    }
}

impl Record for Robot {
    const KIND: Kind = Kind::Robot;
    const NOUN: &'static str = "robot";
    type Id = RobotId;

    fn id(&self) -> RobotId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let mut entries = vec![IndexEntry::unique(Kind::RobotByName, self.name.as_str())];
        entries.extend(self.machine_id.as_deref().map(|id| IndexEntry::unique(Kind::RobotByMachine, id)));
        entries.extend(self.groups.iter().map(|group| IndexEntry::many(Kind::RobotByGroup, *group)));
        entries
    }

    fn touch(&mut self) {
        self.revision += 1;
    }
}

impl Record for RobotGroup {
    const KIND: Kind = Kind::RobotGroup;
    const NOUN: &'static str = "robot group";
    type Id = RobotGroupId;

    fn id(&self) -> RobotGroupId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::unique(Kind::RobotGroupByName, self.name.as_str())]
    }

    fn touch(&mut self) {
        self.revision += 1;
    }
}

/// A health sample in its place of the ring.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthSample {
    pub robot_id: RobotId,
    pub slot: u16,
    pub sample: Sample,
}

impl Record for HealthSample {
    const KIND: Kind = Kind::HealthSample;
    const NOUN: &'static str = "health sample";
    type Id = (RobotId, u16);

    fn id(&self) -> (RobotId, u16) {
        (self.robot_id, self.slot)
    }
}

impl Record for Process {
    const KIND: Kind = Kind::Process;
    const NOUN: &'static str = "process";
    type Id = ProcessId;

    fn id(&self) -> ProcessId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::unique(Kind::ProcessByName, self.name.as_str())]
    }

    fn touch(&mut self) {
        self.revision += 1;
    }
}

impl Record for ProcessVersion {
    const KIND: Kind = Kind::ProcessVersion;
    const NOUN: &'static str = "process version";
    type Id = ProcessVersionId;

    fn id(&self) -> ProcessVersionId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![
            IndexEntry::unique(Kind::ProcessVersionByNumber, (self.process_id, self.number)),
            IndexEntry::many(Kind::ProcessVersionBySha, self.sha256.as_str()),
        ]
    }

    fn touch(&mut self) {
        self.revision += 1;
    }
}

impl KeyPart for Target {
    fn append(&self, key: &mut Vec<u8>) {
        match self {
            Self::Robot(robot) => (1u8, *robot).append(key),
            Self::Group(group) => (2u8, *group).append(key),
        }
    }
}

/// State of an unfinished job, outcome of a finished one, as one byte that never changes its meaning.
pub fn phase(state: &State) -> u8 {
    match state {
        State::Finished { outcome, .. } => 16 + *outcome as u8,
        unfinished => unfinished_phase(unfinished.kind()),
    }
}

/// The byte of an unfinished state.
pub fn unfinished_phase(state: JobState) -> u8 {
    state as u8
}

impl Record for Job {
    const KIND: Kind = Kind::Job;
    const NOUN: &'static str = "job";
    type Id = JobId;

    fn id(&self) -> JobId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let mut entries = vec![
            IndexEntry::many(Kind::JobByPhase, phase(&self.state)),
            IndexEntry::many(Kind::JobByProcess, self.process_id),
            IndexEntry::many(Kind::JobByVersion, self.process_version_id),
        ];
        if self.is_ready() {
            // Higher priority first, and within it the id: the oldest first.
            let order = (self.target, self.process_version_id, u8::MAX - self.priority);
            entries.push(IndexEntry::many(Kind::JobReady, order));
        }
        if let Some(robot) = &self.robot {
            entries.push(IndexEntry::many(Kind::JobByRobot, robot.id));
            if self.is_held() {
                entries.push(IndexEntry::many(Kind::JobHeld, robot.id));
                entries.push(IndexEntry::many(Kind::JobActive, self.process_id));
            }
        }
        entries.extend(self.deadline().map(|at| IndexEntry::many(Kind::JobDeadline, at)));
        entries
    }

    fn touch(&mut self) {
        self.revision += 1;
    }
}

impl Record for Attempt {
    const KIND: Kind = Kind::Attempt;
    const NOUN: &'static str = "attempt";
    type Id = (JobId, u32);

    fn id(&self) -> (JobId, u32) {
        (self.job_id, self.attempt)
    }
}

impl Record for Event {
    const KIND: Kind = Kind::Event;
    const NOUN: &'static str = "event";
    type Id = (Uuid, EventId);

    fn id(&self) -> (Uuid, EventId) {
        (self.object, self.id)
    }
}

impl Record for LogHead {
    const KIND: Kind = Kind::LogHead;
    const NOUN: &'static str = "log";
    type Id = (JobId, u32);

    fn id(&self) -> (JobId, u32) {
        (self.job_id, self.attempt)
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        if self.unsealed_chunks == 0 {
            return Vec::new();
        }
        let sealable = self.sealable_at().map(|at| IndexEntry::many(Kind::LogHeadUnsealed, at));
        let active = self.unsealed.as_ref().map(|_| IndexEntry::many(Kind::LogActive, ()));
        sealable.into_iter().chain(active).collect()
    }
}

impl Record for LogBlock {
    const KIND: Kind = Kind::LogBlock;
    const NOUN: &'static str = "log block";
    type Id = (JobId, u32, u64);

    fn id(&self) -> (JobId, u32, u64) {
        (self.job_id, self.attempt, self.first_seq)
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        if self.expired {
            return Vec::new();
        }
        let mut entries = vec![
            IndexEntry::many(Kind::LogBlockByTime, self.last_time),
            IndexEntry::many(Kind::LogBlockByBlob, self.blob),
        ];
        if let Some(origin) = &self.origin {
            let time = (self.span(), self.last_time);
            entries.push(IndexEntry::many(Kind::LogBlockBySpan, time));
            entries
                .extend(origin.robot.as_ref().map(|robot| IndexEntry::many(Kind::LogBlockByRobot, (robot.id, time))));
            let process = origin.process.as_ref();
            entries.extend(process.map(|process| IndexEntry::many(Kind::LogBlockByProcess, (process.id, time))));
        }
        entries
    }
}

impl Record for File {
    const KIND: Kind = Kind::File;
    const NOUN: &'static str = "file";
    type Id = FileId;

    fn id(&self) -> FileId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::unique(Kind::FileByPath, (self.folder.as_str(), self.path.as_str()))]
    }
}

impl Record for Answer {
    const KIND: Kind = Kind::Idempotency;
    const NOUN: &'static str = "answer";
    type Id = [u8; 32];

    fn id(&self) -> [u8; 32] {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::many(Kind::IdempotencyByExpiry, self.expires_at)]
    }
}

impl Record for Garbage {
    const KIND: Kind = Kind::Garbage;
    const NOUN: &'static str = "unneeded blob";
    type Id = String;

    fn id(&self) -> String {
        self.blob.clone()
    }
}

/// Reads a stored record and gives its id and the keys of all its index entries.
type IndexKeysOf = fn(AccountId, &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>)>;

/// A kind of records.
pub struct RecordKind {
    pub kind: Kind,
    pub noun: &'static str,
    /// The kinds of its index entries.
    pub indexes: &'static [Kind],
    pub index_keys_of: IndexKeysOf,
}

const fn records<R: Record>(indexes: &'static [Kind]) -> RecordKind {
    RecordKind { kind: R::KIND, noun: R::NOUN, indexes, index_keys_of: index_keys_of::<R> }
}

/// All records.
pub const RECORDS: &[RecordKind] = &[
    records::<Account>(&[]),
    records::<User>(&[Kind::UserByLogin]),
    records::<ApiKey>(&[Kind::ApiKeyByOwner]),
    records::<JoinToken>(&[]),
    records::<Robot>(&[Kind::RobotByName, Kind::RobotByMachine, Kind::RobotByGroup]),
    records::<RobotGroup>(&[Kind::RobotGroupByName]),
    records::<HealthSample>(&[]),
    records::<Process>(&[Kind::ProcessByName]),
    records::<ProcessVersion>(&[Kind::ProcessVersionByNumber, Kind::ProcessVersionBySha]),
    records::<Job>(&[
        Kind::JobByPhase,
        Kind::JobByProcess,
        Kind::JobByVersion,
        Kind::JobReady,
        Kind::JobByRobot,
        Kind::JobHeld,
        Kind::JobActive,
        Kind::JobDeadline,
    ]),
    records::<Attempt>(&[]),
    records::<Event>(&[]),
    records::<LogHead>(&[Kind::LogHeadUnsealed, Kind::LogActive]),
    records::<LogBlock>(&[
        Kind::LogBlockByTime,
        Kind::LogBlockByBlob,
        Kind::LogBlockBySpan,
        Kind::LogBlockByRobot,
        Kind::LogBlockByProcess,
    ]),
    records::<File>(&[Kind::FileByPath]),
    records::<Answer>(&[Kind::IdempotencyByExpiry]),
    records::<Garbage>(&[]),
];

/// Kinds that are neither records nor indexes: pieces of documents and of log lines, arrivals, what is found by a hash.
pub const PLAIN: &[Kind] =
    &[Kind::KeyByHash, Kind::JoinTokenByHash, Kind::Document, Kind::LogChunk, Kind::LogArrival, Kind::System];

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind that nobody lists would be called unknown by `check`; one listed twice would be checked wrongly.
    #[test]
    fn every_kind_is_listed_once() {
        let mut listed: Vec<Kind> = PLAIN.to_vec();
        for record in RECORDS {
            listed.push(record.kind);
            listed.extend(record.indexes);
        }
        listed.sort();
        let mut all = Kind::ALL.to_vec();
        all.sort();
        assert_eq!(listed, all);
    }
}
