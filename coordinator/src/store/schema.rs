//! Every record of the store with its indexes and version, on one page.

use drover_protocol::{
    AccountId, AlertId, DeliveryId, EventId, FileId, FolderId, JobId, JoinTokenId, KeyId, NewsId, ProcessId,
    ProcessVersionId, QueueId, RaisedAlertId, ResourceId, RobotGroupId, RobotId, RoleId, TaskId, Timestamp, TriggerId,
    UserId, WebhookId,
    change::Noun,
    job::{JobState, Outcome},
    task::TaskError,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    changes::Public,
    key::{KeyPart, Kind},
    table::{IndexEntry, Record, index_keys_of},
};
use crate::{
    domain::{
        account::{Account, User},
        alert::{Alert, Mail, Raised},
        attempt::Attempt,
        audit::Act,
        event::Event,
        file::File,
        garbage::Garbage,
        idempotency::Answer,
        job::{Job, State, Target},
        key::{ApiKey, JoinToken, Owner},
        log::{LogBlock, LogHead},
        news::{News, Wanted},
        process::{Process, ProcessVersion},
        queue::{Counters, Hour, Queue},
        resource::{Resource, ResourceValue, Scope},
        robot::{Robot, RobotGroup, Sample},
        role::OwnRole,
        storage::StorageFolder,
        task::{self, Task},
        task_batch::TaskBatch,
        totals::Totals,
        trace::{LogsExported, Unexported},
        trigger::{
            Fire, Rule, Trigger,
            by_event::{Pending, news_of},
            by_mail::MailMark,
            by_webhook::is_once,
        },
        webhook::{Delivery, Faring, Webhook},
    },
    error::Result,
};

impl Record for Account {
    const KIND: Kind = Kind::Account;
    const NOUN: &'static str = "account";
    const IS_READ_OFTEN: bool = true;
    type Id = AccountId;

    fn id(&self) -> AccountId {
        self.id
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::Account, id: self.id.uuid(), name: Some(&self.name), revision: Some(self.revision) })
    }
}

impl Record for User {
    const KIND: Kind = Kind::User;
    const IS_READ_OFTEN: bool = true;
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

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::User, id: self.id.uuid(), name: Some(&self.login), revision: Some(self.revision) })
    }
}

impl Record for OwnRole {
    const KIND: Kind = Kind::OwnRole;
    const NOUN: &'static str = "role";
    const IS_READ_OFTEN: bool = true;
    type Id = RoleId;

    fn id(&self) -> RoleId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::unique(Kind::OwnRoleByName, self.name.as_str())]
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
    const IS_READ_OFTEN: bool = true;
    const NOUN: &'static str = "key";
    type Id = KeyId;

    fn id(&self) -> KeyId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::many(Kind::ApiKeyByOwner, self.owner)]
    }

    fn public(&self) -> Option<Public<'_>> {
        // Keys of attempts come and go with their jobs.
        let is_peoples = !matches!(self.owner, Owner::Job { .. });
        // Nobody reads another one's keys; that there are such is all that others are told.
        is_peoples.then(|| Public { noun: Noun::Key, id: self.id.uuid(), name: None, revision: None })
    }
}

impl Record for JoinToken {
    const KIND: Kind = Kind::JoinToken;
    const NOUN: &'static str = "join token";
    type Id = JoinTokenId;

    fn id(&self) -> JoinTokenId {
        self.id
    }

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::JoinToken, id: self.id.uuid(), name: None, revision: None })
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
        entries.extend(self.offline_at.map(|at| IndexEntry::many(Kind::RobotByOffline, at)));
        entries
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::Robot, id: self.id.uuid(), name: Some(&self.name), revision: Some(self.revision) })
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

    fn public(&self) -> Option<Public<'_>> {
        let name = Some(self.name.as_str());
        Some(Public { noun: Noun::RobotGroup, id: self.id.uuid(), name, revision: Some(self.revision) })
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
    const IS_READ_OFTEN: bool = true;
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

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::Process, id: self.id.uuid(), name: Some(&self.name), revision: Some(self.revision) })
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

    fn public(&self) -> Option<Public<'_>> {
        let name = self.label.as_deref();
        Some(Public { noun: Noun::Version, id: self.id.uuid(), name, revision: Some(self.revision) })
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
        if let Some(trigger) = self.trigger_id {
            entries.push(IndexEntry::many(Kind::JobByTrigger, trigger));
            if !self.is_finished() {
                entries.push(IndexEntry::many(Kind::JobActiveByTrigger, trigger));
            }
        }
        entries.extend(self.deadline().map(|at| IndexEntry::many(Kind::JobDeadline, at)));
        entries
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        let name = Some(self.process_name.as_str());
        Some(Public { noun: Noun::Job, id: self.id.uuid(), name, revision: Some(self.revision) })
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
        let mut entries = vec![IndexEntry::unique(Kind::FileByPath, (self.folder.as_str(), self.path.as_str()))];
        entries.extend(self.made_folder().map(|folder| IndexEntry::many(Kind::FileByTime, (folder, self.modified_at))));
        entries.extend(self.content_of.map(|id| IndexEntry::many(Kind::FileByContent, id)));
        entries
    }

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::File, id: self.id.uuid(), name: Some(&self.path), revision: None })
    }
}

impl Record for StorageFolder {
    const KIND: Kind = Kind::StorageFolder;
    const NOUN: &'static str = "storage folder";
    type Id = FolderId;

    fn id(&self) -> FolderId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        if self.deleted {
            return vec![IndexEntry::many(Kind::StorageFolderDeleted, ())];
        }
        let mut entries = vec![IndexEntry::unique(Kind::StorageFolderByName, self.name.as_str())];
        if self.retention_days.is_some() && !self.read_only {
            entries.push(IndexEntry::many(Kind::StorageFolderRetained, ()));
        }
        entries
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::Storage, id: self.id.uuid(), name: Some(&self.name), revision: Some(self.revision) })
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

impl Record for Queue {
    const KIND: Kind = Kind::Queue;
    const IS_READ_OFTEN: bool = true;
    const NOUN: &'static str = "queue";
    type Id = QueueId;

    fn id(&self) -> QueueId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::unique(Kind::QueueByName, self.name.as_str())]
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::Queue, id: self.id.uuid(), name: Some(&self.name), revision: Some(self.revision) })
    }
}

impl Record for Counters {
    const KIND: Kind = Kind::QueueCounters;
    const IS_READ_OFTEN: bool = true;
    const NOUN: &'static str = "queue";
    type Id = QueueId;

    fn id(&self) -> QueueId {
        self.queue_id
    }
}

/// What happened to the tasks of a queue in an hour that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HourOfQueue {
    pub queue_id: QueueId,
    pub hour: Hour,
}

impl Record for HourOfQueue {
    const KIND: Kind = Kind::QueueHour;
    const NOUN: &'static str = "hour of a queue";
    type Id = (QueueId, u64);

    fn id(&self) -> (QueueId, u64) {
        (self.queue_id, self.hour.number)
    }
}

impl Record for Task {
    const KIND: Kind = Kind::Task;
    const NOUN: &'static str = "task";
    type Id = TaskId;

    fn id(&self) -> TaskId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let phase = self.phase();
        let mut entries = vec![IndexEntry::many(Kind::TaskByPhase, (self.queue_id, phase as u8))];
        for tag in &self.tags {
            entries.push(IndexEntry::many(Kind::TaskByTag, (self.queue_id, tag.as_str(), phase as u8)));
        }
        if let Some(reference) = &self.reference {
            entries.push(IndexEntry::many(Kind::TaskByReference, (reference.as_str(), self.queue_id)));
        }
        if let Some(deadline) = self.deadline.filter(|_| phase.is_ready()) {
            for tag in std::iter::once("").chain(self.tags.iter().map(String::as_str)) {
                let place = ((self.queue_id, tag), deadline, phase as u8);
                entries.push(IndexEntry::many(Kind::TaskByLateness, place));
            }
        }
        entries.extend(self.due_at().map(|at| IndexEntry::many(Kind::TaskDue, at)));
        entries.extend(self.held_by_job().map(|job| IndexEntry::many(Kind::TaskByJob, (job.id, job.attempt))));
        entries
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        let name = self.name.as_deref().or(self.reference.as_deref());
        Some(Public { noun: Noun::Task, id: self.id.uuid(), name, revision: Some(self.revision) })
    }
}

/// An attempt at a task before its newest one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PastAttempt {
    pub task_id: TaskId,
    pub attempt: task::Attempt,
}

impl Record for PastAttempt {
    const KIND: Kind = Kind::TaskAttempt;
    const NOUN: &'static str = "attempt of a task";
    type Id = (TaskId, u32);

    fn id(&self) -> (TaskId, u32) {
        (self.task_id, self.attempt.number)
    }
}

/// An attempt of a job that has ended while it held more tasks than could be settled at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settling {
    pub job_id: JobId,
    pub attempt: u32,
    pub error: TaskError,
    /// How far it is.
    pub position: Option<Vec<u8>>,
}

impl Record for Settling {
    const KIND: Kind = Kind::TaskSettling;
    const NOUN: &'static str = "job with tasks to settle";
    type Id = (JobId, u32);

    fn id(&self) -> (JobId, u32) {
        (self.job_id, self.attempt)
    }
}

impl Record for Resource {
    const KIND: Kind = Kind::Resource;
    const NOUN: &'static str = "resource";
    type Id = ResourceId;

    fn id(&self) -> ResourceId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        if self.removed {
            // First of all that expire, so that whoever looks after those finds it and removes what is left.
            return vec![IndexEntry::many(Kind::ResourceByExpiry, Timestamp::EPOCH)];
        }
        let mut entries = vec![IndexEntry::unique(Kind::ResourceByName, self.name.as_str())];
        entries.extend(self.expires_at.map(|at| IndexEntry::many(Kind::ResourceByExpiry, at)));
        entries
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::Resource, id: self.id.uuid(), name: Some(&self.name), revision: Some(self.revision) })
    }
}

impl KeyPart for Scope {
    fn append(&self, key: &mut Vec<u8>) {
        match self {
            Self::Default => 0u8.append(key),
            Self::Group(group) => (1u8, *group).append(key),
            Self::Robot(robot) => (2u8, *robot).append(key),
        }
    }
}

impl Record for ResourceValue {
    const KIND: Kind = Kind::ResourceValue;
    const NOUN: &'static str = "value of a resource";
    type Id = (ResourceId, u64);

    fn id(&self) -> (ResourceId, u64) {
        (self.resource_id, self.number)
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let mut entries = vec![IndexEntry::many(Kind::ResourceValueByScope, (self.resource_id, self.scope))];
        if self.current {
            entries.push(IndexEntry::unique(Kind::ResourceValueCurrent, (self.resource_id, self.scope)));
        }
        if self.scope != Scope::Default {
            entries.push(IndexEntry::many(Kind::ResourceValueByHolder, self.scope));
        }
        entries
    }
}

impl Record for Act {
    const KIND: Kind = Kind::Audit;
    const NOUN: &'static str = "record of the audit trail";
    type Id = u64;

    fn id(&self) -> u64 {
        self.seq
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let Some(record) = self.record() else { return Vec::new() };
        vec![
            IndexEntry::many(Kind::AuditByActor, record.actor),
            IndexEntry::many(Kind::AuditByNoun, record.noun),
            IndexEntry::many(Kind::AuditByObject, record.object),
        ]
    }
}

impl Record for Trigger {
    const KIND: Kind = Kind::Trigger;
    const NOUN: &'static str = "trigger";
    type Id = TriggerId;

    fn id(&self) -> TriggerId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let mut entries = vec![
            IndexEntry::unique(Kind::TriggerByName, self.name.as_str()),
            IndexEntry::many(Kind::TriggerByProcess, self.process_id),
            IndexEntry::many(Kind::TriggerByTarget, self.target),
        ];
        entries.extend(self.calendar.as_deref().map(|name| IndexEntry::many(Kind::TriggerByCalendar, name)));
        match &self.rule {
            Rule::Queue { queue_id, .. } => entries.push(IndexEntry::many(Kind::TriggerByQueue, *queue_id)),
            Rule::Event(settings) if self.enabled => {
                entries.push(IndexEntry::many(Kind::TriggerByEvent, news_of(settings.on).as_str()));
            }
            _ => {}
        }
        entries.extend(self.due_at().map(|at| IndexEntry::many(Kind::TriggerDue, at)));
        entries
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        Some(Public { noun: Noun::Trigger, id: self.id.uuid(), name: Some(&self.name), revision: Some(self.revision) })
    }
}

impl Record for Fire {
    const KIND: Kind = Kind::TriggerFire;
    const NOUN: &'static str = "fire";
    type Id = (TriggerId, Timestamp, Uuid);

    fn id(&self) -> (TriggerId, Timestamp, Uuid) {
        (self.trigger_id, self.instant, self.occasion)
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let mut entries = vec![IndexEntry::many(Kind::TriggerFireByTime, self.decided_at)];
        if is_once(self.occasion) {
            entries.push(IndexEntry::unique(Kind::TriggerFireByOccasion, (self.trigger_id, self.occasion)));
        }
        entries
    }
}

impl Record for Pending {
    const KIND: Kind = Kind::TriggerPending;
    const NOUN: &'static str = "event that waits for a trigger";
    type Id = (TriggerId, NewsId);

    fn id(&self) -> (TriggerId, NewsId) {
        (self.trigger_id, self.news_id)
    }
}

impl Record for MailMark {
    const KIND: Kind = Kind::MailMark;
    const NOUN: &'static str = "mark of a mailbox";
    type Id = TriggerId;

    fn id(&self) -> TriggerId {
        self.trigger_id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        self.look_at.map(|at| IndexEntry::many(Kind::MailMarkDue, at)).into_iter().collect()
    }
}

/// Reads a stored record and gives its id and the keys of all its index entries.
type IndexKeysOf = fn(AccountId, &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>)>;

impl Record for TaskBatch {
    const KIND: Kind = Kind::TaskBatch;
    const NOUN: &'static str = "batch of tasks";
    type Id = ([u8; 32], u64);

    fn id(&self) -> ([u8; 32], u64) {
        (self.stream, self.first_line)
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::many(Kind::TaskBatchByExpiry, self.expires_at)]
    }
}

impl Record for Wanted {
    const KIND: Kind = Kind::NewsWanted;
    const IS_READ_OFTEN: bool = true;
    const NOUN: &'static str = "list of wanted news";
    type Id = ();

    fn id(&self) {}
}

impl Record for News {
    const KIND: Kind = Kind::News;
    const NOUN: &'static str = "news";
    type Id = NewsId;

    fn id(&self) -> NewsId {
        self.id
    }
}

impl Record for Unexported {
    const KIND: Kind = Kind::Unexported;
    const NOUN: &'static str = "note of what has ended";
    type Id = Uuid;

    fn id(&self) -> Uuid {
        self.id
    }
}

impl Record for LogsExported {
    const KIND: Kind = Kind::LogsExported;
    const NOUN: &'static str = "mark of exported logs";
    type Id = ();

    fn id(&self) {}
}

impl Record for Webhook {
    const KIND: Kind = Kind::Webhook;
    const IS_READ_OFTEN: bool = true;
    const NOUN: &'static str = "webhook";
    type Id = WebhookId;

    fn id(&self) -> WebhookId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::unique(Kind::WebhookByName, self.name.as_str())]
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        let revision = Some(self.revision);
        Some(Public { noun: Noun::Webhook, id: self.id.uuid(), name: Some(&self.name), revision })
    }
}

/// How a webhook fares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaringOf {
    pub webhook_id: WebhookId,
    pub faring: Faring,
}

impl Record for FaringOf {
    const KIND: Kind = Kind::WebhookFaring;
    const NOUN: &'static str = "webhook";
    type Id = WebhookId;

    fn id(&self) -> WebhookId {
        self.webhook_id
    }
}

impl Record for Delivery {
    const KIND: Kind = Kind::Delivery;
    const NOUN: &'static str = "delivery";
    type Id = DeliveryId;

    fn id(&self) -> DeliveryId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let mut entries = vec![IndexEntry::many(Kind::DeliveryByWebhook, self.webhook_id)];
        entries.extend(self.next_try_at.map(|at| IndexEntry::many(Kind::DeliveryDue, (self.webhook_id, at))));
        entries
    }
}

impl Record for Alert {
    const KIND: Kind = Kind::Alert;
    const IS_READ_OFTEN: bool = true;
    const NOUN: &'static str = "alert";
    type Id = AlertId;

    fn id(&self) -> AlertId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::unique(Kind::AlertByName, self.name.as_str())]
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn public(&self) -> Option<Public<'_>> {
        let revision = Some(self.revision);
        Some(Public { noun: Noun::Alert, id: self.id.uuid(), name: Some(&self.name), revision })
    }
}

impl Record for Raised {
    const KIND: Kind = Kind::Raised;
    const NOUN: &'static str = "raised alert";
    type Id = RaisedAlertId;

    fn id(&self) -> RaisedAlertId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        let mut entries = vec![IndexEntry::many(Kind::RaisedByAlert, self.alert_id)];
        if self.ended.is_none() {
            entries.push(IndexEntry::unique(Kind::RaisedBySubject, (self.alert_id, self.subject.id)));
            entries.push(IndexEntry::many(Kind::RaisedOpen, ()));
        }
        entries
    }

    fn public(&self) -> Option<Public<'_>> {
        let name = Some(self.alert_name.as_str());
        Some(Public { noun: Noun::RaisedAlert, id: self.id.uuid(), name, revision: None })
    }
}

impl Record for Mail {
    const KIND: Kind = Kind::Mail;
    const NOUN: &'static str = "mail";
    type Id = NewsId;

    fn id(&self) -> NewsId {
        self.id
    }

    fn indexes(&self) -> Vec<IndexEntry> {
        vec![IndexEntry::many(Kind::MailDue, self.next_try_at)]
    }
}

/// How many jobs have finished in an hour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HourOfJobs {
    /// Hours since 1970.
    pub number: u64,
    /// By outcome.
    pub finished: [u64; Outcome::ALL.len()],
}

impl Record for HourOfJobs {
    const KIND: Kind = Kind::JobHour;
    const NOUN: &'static str = "hour of jobs";
    type Id = u64;

    fn id(&self) -> u64 {
        self.number
    }
}

impl Record for Totals {
    const KIND: Kind = Kind::Totals;
    const NOUN: &'static str = "totals of an account";
    type Id = ();

    fn id(&self) {}
}

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
    records::<Robot>(&[Kind::RobotByName, Kind::RobotByMachine, Kind::RobotByGroup, Kind::RobotByOffline]),
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
        Kind::JobByTrigger,
        Kind::JobActiveByTrigger,
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
    records::<File>(&[Kind::FileByPath, Kind::FileByTime, Kind::FileByContent]),
    records::<StorageFolder>(&[Kind::StorageFolderByName, Kind::StorageFolderRetained, Kind::StorageFolderDeleted]),
    records::<Answer>(&[Kind::IdempotencyByExpiry]),
    records::<Garbage>(&[]),
    records::<Queue>(&[Kind::QueueByName]),
    records::<Counters>(&[]),
    records::<HourOfQueue>(&[]),
    records::<Task>(&[
        Kind::TaskByPhase,
        Kind::TaskByReference,
        Kind::TaskByTag,
        Kind::TaskDue,
        Kind::TaskByJob,
        Kind::TaskByDeadline,
        Kind::TaskByLateness,
    ]),
    records::<Settling>(&[]),
    records::<PastAttempt>(&[]),
    records::<Resource>(&[Kind::ResourceByName, Kind::ResourceByExpiry]),
    records::<ResourceValue>(&[Kind::ResourceValueByScope, Kind::ResourceValueCurrent, Kind::ResourceValueByHolder]),
    records::<Act>(&[Kind::AuditByActor, Kind::AuditByNoun, Kind::AuditByObject]),
    records::<Trigger>(&[
        Kind::TriggerByName,
        Kind::TriggerDue,
        Kind::TriggerByProcess,
        Kind::TriggerByTarget,
        Kind::TriggerByCalendar,
        Kind::TriggerByQueue,
        Kind::TriggerByEvent,
    ]),
    records::<Fire>(&[Kind::TriggerFireByTime, Kind::TriggerFireByOccasion]),
    records::<MailMark>(&[Kind::MailMarkDue]),
    records::<Pending>(&[]),
    records::<TaskBatch>(&[Kind::TaskBatchByExpiry]),
    records::<Wanted>(&[]),
    records::<News>(&[]),
    records::<Unexported>(&[]),
    records::<LogsExported>(&[]),
    records::<Webhook>(&[Kind::WebhookByName]),
    records::<FaringOf>(&[]),
    records::<Delivery>(&[Kind::DeliveryByWebhook, Kind::DeliveryDue]),
    records::<Alert>(&[Kind::AlertByName]),
    records::<Raised>(&[Kind::RaisedByAlert, Kind::RaisedBySubject, Kind::RaisedOpen]),
    records::<Mail>(&[Kind::MailDue]),
    records::<HourOfJobs>(&[]),
    records::<OwnRole>(&[Kind::OwnRoleByName]),
    records::<Totals>(&[]),
];

/// Kinds that are neither records nor indexes: pieces of documents and of log lines, arrivals, what is found by a hash,
/// and where the audit trail ends.
pub const PLAIN: &[Kind] = &[
    Kind::KeyByHash,
    Kind::JoinTokenByHash,
    Kind::HookByHash,
    Kind::Document,
    Kind::LogChunk,
    Kind::LogArrival,
    Kind::System,
    Kind::AuditHead,
    Kind::AuditCheckpoint,
];

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
