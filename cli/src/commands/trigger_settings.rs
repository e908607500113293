//! The settings of a trigger on the command line, for `create` and `update`.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    error::Error,
    values::{self, OrNone},
};

#[derive(Args)]
pub struct CreateArgs {
    pub name: String,
    /// Name or id of the process whose jobs it starts
    #[arg(long)]
    process: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub struct UpdateArgs {
    /// Name or id
    pub trigger: String,
    /// Give it another name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// Name or id of the process whose jobs it starts
    #[arg(long)]
    process: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
struct EventSettings {
    /// Of a finished job: only of this process (name or id)
    #[arg(long, value_name = "PROCESS")]
    of_process: Option<String>,
    /// Of a finished job: only with this outcome
    #[arg(long, value_parser = ["succeeded", "failed", "stopped", "aborted", "timed_out", "lost"])]
    outcome: Option<String>,
    /// Of a failed task: only of this queue (name or id)
    #[arg(long, value_name = "QUEUE")]
    of_queue: Option<String>,
    /// Of an added file: only in this storage folder (name or id)
    #[arg(long, value_name = "FOLDER")]
    of_folder: Option<String>,
    /// Of a robot that is offline: only of this group (name or id)
    #[arg(long, value_name = "GROUP")]
    of_group: Option<String>,
    /// Fire also on what jobs of this trigger do
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    own_jobs: Option<bool>,
}

impl EventSettings {
    fn put(&self, event: &mut Map<String, Value>) {
        put(event, "process", self.of_process.clone());
        put(event, "outcome", self.outcome.clone());
        put(event, "queue", self.of_queue.clone());
        put(event, "folder", self.of_folder.clone());
        put(event, "group", self.of_group.clone());
        put(event, "own_jobs", self.own_jobs);
    }
}

#[derive(Args)]
struct MailSettings {
    /// Of a mailbox: how it is read
    #[arg(long, value_parser = ["imap", "pop3"])]
    mail_protocol: Option<String>,
    /// Of a mailbox: how the connection is secured
    #[arg(long, value_parser = ["tls", "starttls", "plain"])]
    mail_security: Option<String>,
    /// Of a mailbox: the port of the server, if it is not the usual one
    #[arg(long, value_name = "PORT")]
    mail_port: Option<u16>,
    /// Of a mailbox: name or id of the credential with which it is opened
    #[arg(long, value_name = "RESOURCE")]
    mail_credential: Option<String>,
    /// Of a mailbox by IMAP: the folder (default: INBOX)
    #[arg(long, value_name = "FOLDER")]
    mail_folder: Option<String>,
    /// Of a mailbox by IMAP: only mails that nobody has read
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    unread_only: Option<bool>,
    /// Of a mailbox by IMAP: mark mails as read for which a job was started
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    mark_as_read: Option<bool>,
    /// Of a mailbox: also mails that lie there at the first look
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    existing: Option<bool>,
    /// Of a mailbox: the subject has this in it (repeatable: one of them)
    #[arg(long = "subject", value_name = "TEXT")]
    subjects: Vec<String>,
    /// Of a mailbox: the text has this in it (repeatable: one of them)
    #[arg(long = "body", value_name = "TEXT")]
    bodies: Vec<String>,
    /// Of a mailbox: an attachment has such a name, for example "*.pdf" (repeatable: one of them)
    #[arg(long = "attachment", value_name = "MASK")]
    attachments: Vec<String>,
    /// Of a mailbox: one job for each mail, or for all of a look
    #[arg(long, value_parser = ["per_mail", "per_look"])]
    mail_jobs: Option<String>,
    /// Of a mailbox: from one look to the next, for example 5m
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    mail_interval: Option<u64>,
    /// Of a mailbox: storage folder into which attachments go
    #[arg(long, value_name = "FOLDER")]
    attachments_folder: Option<String>,
}

impl MailSettings {
    fn put(&self, mail: &mut Map<String, Value>) {
        put(mail, "protocol", self.mail_protocol.clone());
        put(mail, "security", self.mail_security.clone());
        put(mail, "port", self.mail_port);
        put(mail, "credential", self.mail_credential.clone());
        put(mail, "mailbox", self.mail_folder.clone());
        put(mail, "unread_only", self.unread_only);
        put(mail, "mark_as_read", self.mark_as_read);
        put(mail, "existing", self.existing);
        let lists = [
            ("subject_contains", &self.subjects),
            ("body_contains", &self.bodies),
            ("attachment_names", &self.attachments),
        ];
        for (name, texts) in lists {
            put(mail, name, Some(texts.clone()).filter(|texts| !texts.is_empty()));
        }
        put(mail, "jobs", self.mail_jobs.clone());
        put(mail, "interval_seconds", self.mail_interval);
        put(mail, "attachments_folder", self.attachments_folder.clone());
    }
}

#[derive(Args)]
struct Settings {
    #[arg(long)]
    description: Option<String>,
    /// For this robot
    #[arg(long, value_name = "ROBOT", conflicts_with = "group")]
    on: Option<String>,
    /// For any robot of this group (default: all)
    #[arg(long)]
    group: Option<String>,
    /// Fire by a cron pattern: 5 fields (0 is Sunday), or 6 with seconds first (1 is Sunday)
    #[arg(long, value_name = "PATTERN", group = "pace")]
    cron: Option<String>,
    /// Fire each time so long has passed, for example 15m
    #[arg(long, value_parser = values::seconds, value_name = "DURATION", group = "pace")]
    every: Option<u64>,
    /// Fire on a day of each month: DAY@HH:MM, DAY from 1 to 31 or "last"; "working-" before it counts working days
    #[arg(long, value_name = "DAY@HH:MM", value_parser = monthly, group = "pace")]
    monthly: Option<Value>,
    /// Keep so many jobs running
    #[arg(long, value_name = "JOBS", group = "pace")]
    keep: Option<u32>,
    /// Start jobs for the waiting tasks of this queue
    #[arg(long, value_name = "QUEUE", group = "pace")]
    for_queue: Option<String>,
    /// Fire when it is called from outside; how callers prove that they may (default: signature)
    #[arg(long, value_name = "AUTH", num_args = 0..=1, default_missing_value = "signature", group = "pace",
        value_parser = ["signature", "bearer", "none"])]
    webhook: Option<String>,
    /// When a webhook answers: at once, or when the job has finished
    #[arg(long, value_parser = ["async", "sync"])]
    answer: Option<String>,
    /// Of a queue: only tasks with this tag, or with a - before it those without (repeatable)
    #[arg(long = "tag", value_name = "TAG", allow_hyphen_values = true)]
    tags: Vec<String>,
    /// Of a queue: start no job while fewer tasks wait; of a mailbox with one job per look: while fewer mails fit
    #[arg(long, value_name = "TASKS")]
    threshold: Option<u64>,
    /// Of a queue: one job for so many waiting tasks
    #[arg(long, value_name = "TASKS")]
    tasks_per_job: Option<u32>,
    /// Of a queue: at least so many jobs once the threshold is reached
    #[arg(long, value_name = "JOBS")]
    min_jobs: Option<u32>,
    /// Of a queue: at most so many jobs
    #[arg(long, value_name = "JOBS")]
    max_jobs: Option<u32>,
    /// Of a queue: ask jobs that hold no task to stop when none waits any more
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    end_when_empty: Option<bool>,
    /// Fire when this happens
    #[arg(long, value_name = "EVENT", group = "pace",
        value_parser = ["job_finished", "task_failed", "file_added", "robot_offline"])]
    when: Option<String>,
    #[command(flatten)]
    event: EventSettings,
    /// Fire for new mails in a mailbox of this server
    #[arg(long, value_name = "SERVER", group = "pace")]
    mail_server: Option<String>,
    #[command(flatten)]
    mail: MailSettings,
    /// IANA name of the zone whose clock counts, for example Europe/Berlin (default: UTC)
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// What becomes of a time that the clock leaps over
    #[arg(long, value_parser = ["run_after", "skip"])]
    missing_hour: Option<String>,
    /// What becomes of a time that the clock shows twice
    #[arg(long, value_parser = ["first", "second", "both"])]
    repeated_hour: Option<String>,
    /// What becomes of instants at which the coordinator did not run
    #[arg(long, value_parser = ["none", "last", "all"])]
    catch_up: Option<String>,
    /// How far back instants are made up for, for example 6h
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    catch_up_window: Option<u64>,
    /// What becomes of a fire while jobs of the trigger have not finished
    #[arg(long, value_parser = ["skip", "buffer_one", "buffer_all", "stop_other", "allow"])]
    overlap: Option<String>,
    /// Unfinished jobs of the trigger at once
    #[arg(long)]
    max_parallel: Option<u32>,
    /// Fire only between these local times, for example 22:00-06:00
    #[arg(long, value_name = "HH:MM-HH:MM", value_parser = window)]
    window: Option<Value>,
    /// Working days are those of this resource of the kind calendar (name or id); none: no calendar any more
    #[arg(long, value_name = "RESOURCE", value_parser = values::or_none(|text| Ok(text.to_owned())))]
    calendar: Option<OrNone<String>>,
    /// What becomes of a fire on a day that the calendar does not call a working day (default: skip); before and after:
    /// it fires on the nearest working day
    #[arg(long, value_parser = ["skip", "before", "after"])]
    non_working_days: Option<String>,
    /// Fire from this time on
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    valid_from: Option<drover_protocol::Timestamp>,
    /// Fire until before this time
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    valid_to: Option<drover_protocol::Timestamp>,
    /// Jobs that it may start in all
    #[arg(long)]
    max_runs: Option<u64>,
    /// Jobs that it may start within a month
    #[arg(long)]
    max_runs_per_month: Option<u64>,
    /// Ask each job to stop so long after it was made
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    stop_after: Option<u64>,
    /// Abort each job so long after it was made
    #[arg(long, value_parser = values::seconds, value_name = "DURATION")]
    abort_after: Option<u64>,
    /// For whom jobs are meant while all robots of the group are busy
    #[arg(long, value_parser = ["wait_in_group", "queue_on_least_busy"])]
    busy: Option<String>,
    /// 1 low, 2 normal, 3 high
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    priority: Option<u8>,
    /// Input of its jobs as a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// One member of the input (repeatable); what reads as JSON is JSON, else it is a text
    #[arg(long = "set", value_parser = values::pair, value_name = "KEY=VALUE")]
    members: Vec<(String, String)>,
}

/// `last@06:30`, `15@06:30`, `working-1@06:30`.
fn monthly(text: &str) -> Result<Value, String> {
    let wrong = || format!("\"{text}\" is not a day such as 15@06:30, last@18:00 or working-1@06:30");
    let (day, at) = text.split_once('@').ok_or_else(wrong)?;
    let (working, day) = day.strip_prefix("working-").map_or((false, day), |day| (true, day));
    let day = match day {
        "last" => json!("last"),
        number => json!(number.parse::<u8>().map_err(|_| wrong())?),
    };
    Ok(json!({"day": day, "working": working, "at": at}))
}

/// `22:00-06:00`.
fn window(text: &str) -> Result<Value, String> {
    match text.split_once('-') {
        Some((from, to)) => Ok(json!({"from": from, "to": to})),
        None => Err(format!("\"{text}\" is not a window such as 22:00-06:00")),
    }
}

/// Puts what was given.
fn put(body: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value.into());
    }
}

impl Settings {
    fn schedule(&self) -> Map<String, Value> {
        let mut schedule = Map::new();
        put(&mut schedule, "cron", self.cron.clone());
        put(&mut schedule, "interval_seconds", self.every);
        put(&mut schedule, "monthly", self.monthly.clone());
        put(&mut schedule, "missing_hour", self.missing_hour.clone());
        put(&mut schedule, "repeated_hour", self.repeated_hour.clone());
        put(&mut schedule, "catch_up", self.catch_up.clone());
        put(&mut schedule, "catch_up_window_seconds", self.catch_up_window);
        schedule
    }

    fn queue(&self) -> Map<String, Value> {
        let mut queue = Map::new();
        put(&mut queue, "queue", self.for_queue.clone());
        put(&mut queue, "tags", Some(self.tags.clone()).filter(|tags| !tags.is_empty()));
        put(&mut queue, "threshold", self.threshold.filter(|_| self.mails().is_empty()));
        put(&mut queue, "tasks_per_job", self.tasks_per_job);
        put(&mut queue, "min_jobs", self.min_jobs);
        put(&mut queue, "max_jobs", self.max_jobs);
        put(&mut queue, "end_when_empty", self.end_when_empty);
        queue
    }

    /// The threshold is one of whatever else is given: of tasks or of mails.
    fn mails(&self) -> Map<String, Value> {
        let mut mail = Map::new();
        put(&mut mail, "server", self.mail_server.clone());
        self.mail.put(&mut mail);
        if !mail.is_empty() {
            put(&mut mail, "threshold", self.threshold);
        }
        mail
    }

    fn events(&self) -> Map<String, Value> {
        let mut event = Map::new();
        put(&mut event, "on", self.when.clone());
        self.event.put(&mut event);
        event
    }

    fn hook(&self) -> Map<String, Value> {
        let mut hook = Map::new();
        put(&mut hook, "auth", self.webhook.clone());
        put(&mut hook, "mode", self.answer.clone());
        hook
    }

    fn body(&self) -> Result<Map<String, Value>, Error> {
        let mut body = Map::new();
        put(&mut body, "description", self.description.clone());
        let target = match (&self.on, &self.group) {
            (Some(robot), _) => Some(json!({"robot": robot})),
            (None, group) => group.as_ref().map(|group| json!({"group": group})),
        };
        put(&mut body, "target", target);
        let schedule = self.schedule();
        let kinds = [
            ("schedule", schedule),
            ("queue", self.queue()),
            ("webhook", self.hook()),
            ("event", self.events()),
            ("mail", self.mails()),
        ];
        for (name, members) in kinds {
            put(&mut body, name, Some(members).filter(|members| !members.is_empty()));
        }
        put(&mut body, "continuous", self.keep.map(|jobs| json!({"jobs": jobs})));
        put(&mut body, "overlap", self.overlap.clone());
        put(&mut body, "max_parallel", self.max_parallel);
        put(&mut body, "window", self.window.clone());
        put(&mut body, "time_zone", self.time_zone.clone());
        put(&mut body, "calendar", self.calendar.clone().map(|OrNone(calendar)| calendar));
        put(&mut body, "non_working_days", self.non_working_days.clone());
        put(&mut body, "valid_from", self.valid_from.map(|time| time.to_string()));
        put(&mut body, "valid_to", self.valid_to.map(|time| time.to_string()));
        put(&mut body, "max_runs", self.max_runs);
        put(&mut body, "max_runs_per_month", self.max_runs_per_month);
        put(&mut body, "stop_after_seconds", self.stop_after);
        put(&mut body, "abort_after_seconds", self.abort_after);
        put(&mut body, "busy", self.busy.clone());
        put(&mut body, "priority", self.priority);
        put(&mut body, "input", values::job_input(self.input.as_deref(), &self.members)?);
        Ok(body)
    }
}

impl CreateArgs {
    /// The request that makes it.
    pub fn body(&self) -> Result<Value, Error> {
        let mut body = self.settings.body()?;
        let kinds = ["continuous", "queue", "webhook", "event", "mail", "schedule"];
        let Some(kind) = kinds.into_iter().find(|kind| body.contains_key(*kind)) else {
            let remedy = "say by what it fires: --cron PATTERN, --every DURATION, --monthly DAY@HH:MM, --keep JOBS, \
                          --for-queue QUEUE, --webhook, --when EVENT or --mail-server SERVER";
            return Err(Error::Usage(remedy.to_owned()));
        };
        put(&mut body, "name", Some(self.name.clone()));
        put(&mut body, "process", Some(self.process.clone()));
        put(&mut body, "kind", Some(kind));
        body.entry("target").or_insert_with(|| json!({"group": "all"}));
        Ok(Value::Object(body))
    }
}

impl UpdateArgs {
    /// The request that changes it.
    pub fn body(&self) -> Result<Value, Error> {
        let mut body = self.settings.body()?;
        put(&mut body, "name", self.rename.clone());
        put(&mut body, "process", self.process.clone());
        if body.is_empty() {
            return Err(Error::Usage("say what is to change; --help lists the settings".to_owned()));
        }
        Ok(Value::Object(body))
    }
}
