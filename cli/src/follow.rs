//! Following a job to its end: its log as it is written, why it waits, over lost connections and further attempts.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use drover_protocol::{
    job::{Explanation, Job, JobState, Outcome, StopJob, StopMode},
    log::{LogLine, LogPage},
    problem::Code,
};
use futures::StreamExt;

use crate::{
    client::{Answer, Client, reason},
    commands::{
        job::NOUN,
        job_logs::{LevelArg, LogFilter, in_colours},
    },
    error::{EXIT_FAILURE, Error, NetworkError},
    event_stream::{Event, EventReader},
    output::{note, printable},
    session::Session,
};

/// How long one look at a waiting job may take; it answers earlier when something changes.
const LOOK_SECONDS: u64 = 2;
/// The least time between two looks.
const LEAST_PAUSE: Duration = Duration::from_millis(200);
/// A job that waits longer than this is explained, and again each time the explanation changes.
const EXPLAIN_AFTER: Duration = Duration::from_secs(3);
const EXPLAIN_AGAIN: Duration = Duration::from_secs(5);
/// Without an event for so long, a look at the job tells whether the attempt goes on.
const IDLE: Duration = Duration::from_secs(15);
/// How long a coordinator that cannot be reached is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
const PAGE_LINES: u32 = 1000;

/// Where lines of the log go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    StandardOutput,
    StandardError,
    /// Standard output, each line as the API gives it.
    Json,
}

/// The exit code that goes with a job's outcome.
pub fn exit_code(job: &Job) -> u8 {
    match job.outcome {
        Some(Outcome::Succeeded) => 0,
        Some(Outcome::Failed) => 10,
        Some(Outcome::Stopped) => 11,
        Some(Outcome::Aborted) => 12,
        Some(Outcome::TimedOut) => 13,
        Some(Outcome::Lost) => 14,
        None => EXIT_FAILURE,
    }
}

/// Follows one job.
pub struct Follower<'a> {
    session: &'a Session,
    id: String,
    sink: Sink,
    filter: LogFilter,
    /// The attempt whose log is being or has been shown; 0 before the first.
    attempt: u32,
    /// The last line that was shown of it.
    last_seq: u64,
}

impl<'a> Follower<'a> {
    pub fn new(session: &'a Session, id: &str, sink: Sink) -> Self {
        let filter = LogFilter::default();
        Self { session, id: id.to_owned(), sink, filter, attempt: 0, last_seq: 0 }
    }

    /// Shows only some lines.
    pub fn filter(mut self, filter: LogFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Shows the log of each attempt, and answers the finished job.
    pub async fn run_to_end(mut self) -> Result<Answer, Error> {
        loop {
            let (answer, job) = self.wait_for_log().await?;
            if job.attempt > self.attempt {
                if self.attempt > 0 {
                    note(&format!("Attempt {} begins.", job.attempt));
                }
                (self.attempt, self.last_seq) = (job.attempt, 0);
            } else if job.state == JobState::Finished {
                return Ok(answer);
            }
            self.show_attempt().await?;
        }
    }

    /// Waits until there is a log to show, or the job has finished.
    async fn wait_for_log(&self) -> Result<(Answer, Job), Error> {
        let mut waiting = Waiting { since: Instant::now(), explained_at: None, told: String::new() };
        let mut patience = Patience::new("The job goes on; trying again.");
        let mut wait_seconds = 0;
        loop {
            let look = self.look(wait_seconds).await;
            let (answer, job) = match look {
                Ok(found) => found,
                Err(error) => {
                    patience.wait(error).await?;
                    continue;
                }
            };
            patience.reached();
            let has_log = match job.state {
                JobState::Finished => true,
                JobState::Waiting => false,
                // The log of an assigned attempt begins now; when the assignment is not accepted, another follows.
                JobState::Assigned => job.attempt > self.attempt,
                JobState::Running | JobState::Silent | JobState::Stopping => true,
            };
            if has_log {
                return Ok((answer, job));
            }
            waiting.explain(self.session, &self.id).await;
            tokio::time::sleep(LEAST_PAUSE).await;
            wait_seconds = LOOK_SECONDS;
        }
    }

    async fn look(&self, wait_seconds: u64) -> Result<(Answer, Job), Error> {
        let call = self.session.client.get(&[NOUN, &self.id])?.query("wait_seconds", wait_seconds);
        let answer = call.send().await?;
        let job = answer.decode()?;
        Ok((answer, job))
    }

    /// Shows the log of one attempt until it ends, connecting again as often as needed.
    async fn show_attempt(&mut self) -> Result<(), Error> {
        let mut patience = Patience::new("The job goes on; trying again.");
        loop {
            let seen = self.last_seq;
            match self.stream().await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if self.last_seq > seen {
                        patience.reached();
                    }
                    patience.wait(error).await?;
                }
            }
        }
    }

    /// One connection: shows lines until the end of the attempt.
    async fn stream(&mut self) -> Result<(), Error> {
        let call = self.logs()?.accept("text/event-stream").last_event_id((self.last_seq > 0).then_some(self.last_seq));
        let response = call.open().await?;
        let mut pieces = response.bytes_stream();
        let mut reader = EventReader::default();
        let mut quiet = tokio::time::interval_at(tokio::time::Instant::now() + IDLE, IDLE);
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                _ = quiet.tick() => {
                    if self.attempt_is_over().await? {
                        return self.show_rest().await;
                    }
                    continue;
                }
            };
            let piece = match piece {
                Some(piece) => piece.map_err(|error| self.broken(&reason(&error)))?,
                None => return Err(self.broken("the stream ended early")),
            };
            for event in reader.push(&piece).map_err(|_| Error::Answer("an event is too large".to_owned()))? {
                quiet.reset();
                if event.name == "end" {
                    return Ok(());
                }
                self.show_event(&event)?;
            }
        }
    }

    fn logs(&self) -> Result<crate::client::Call<'a>, Error> {
        let call = self.session.client.get(&[NOUN, &self.id, "logs"])?.query("attempt", self.attempt);
        let call = call.query_opt("level", self.filter.level.map(LevelArg::as_str));
        Ok(call.query_opt("text", self.filter.text.as_ref()))
    }

    async fn attempt_is_over(&self) -> Result<bool, Error> {
        let (_, job) = self.look(0).await?;
        Ok(job.attempt != self.attempt || matches!(job.state, JobState::Finished | JobState::Waiting))
    }

    /// Shows the lines that the stream has not brought, of an attempt that is over.
    async fn show_rest(&mut self) -> Result<(), Error> {
        let mut from_seq = self.last_seq + 1;
        loop {
            let answer = self.logs()?.query("from_seq", from_seq).query("limit", PAGE_LINES).send().await?;
            let page: LogPage = answer.decode()?;
            for line in &page.items {
                let json = serde_json::to_string(line).map_err(|error| Error::Answer(error.to_string()))?;
                self.show_line(line, &json)?;
            }
            if page.complete || page.next_seq <= from_seq {
                return Ok(());
            }
            from_seq = page.next_seq;
        }
    }

    fn show_event(&mut self, event: &Event) -> Result<(), Error> {
        let line = crate::decode::decode::<LogLine>(event.data.as_bytes())?;
        self.show_line(&line, &event.data)
    }

    fn show_line(&mut self, line: &LogLine, json: &str) -> Result<(), Error> {
        // After a reconnection lines may come again.
        if line.seq <= self.last_seq {
            return Ok(());
        }
        self.last_seq = line.seq;
        let out = &self.session.out;
        match self.sink {
            Sink::StandardOutput => out.styled_line(&in_colours(out, line)),
            Sink::Json => out.styled_line(json),
            Sink::StandardError => {
                note(&format!("{} {:8} {}", line.line.time, line.line.level.as_str(), printable(&line.line.message)));
                Ok(())
            }
        }
    }

    fn broken(&self, reason: &str) -> Error {
        Error::Network(Box::new(NetworkError {
            server: self.session.client.root().to_string(),
            reason: reason.to_owned(),
            not_connected: false,
            idempotency_key: None,
            outcome_unknown: false,
        }))
    }
}

/// What a person has been told about a job that waits.
struct Waiting {
    since: Instant,
    explained_at: Option<Instant>,
    told: String,
}

impl Waiting {
    /// Says why the job waits, if it does so for a while already and the answer is a new one.
    async fn explain(&mut self, session: &Session, id: &str) {
        let due = self.since.elapsed() >= EXPLAIN_AFTER;
        if !due || self.explained_at.is_some_and(|at| at.elapsed() < EXPLAIN_AGAIN) {
            return;
        }
        self.explained_at = Some(Instant::now());
        // Only a remark: when it cannot be had, the job is waited for all the same.
        let Ok(call) = session.client.get(&[NOUN, id, "explain"]) else { return };
        let Ok(answer) = call.send().await else { return };
        let Ok(explanation) = answer.decode::<Explanation>() else { return };
        if explanation.state == JobState::Waiting && explanation.summary != self.told {
            note(&format!("Waiting: {}", explanation.summary));
            if self.told.is_empty() {
                note(&format!("For each robot: drover job explain {id}"));
            }
            self.told = explanation.summary;
        }
    }
}

/// How long a coordinator that cannot answer is waited for. The job does not need us.
pub struct Patience {
    failing_since: Option<Instant>,
    delay: Duration,
    /// What is said to reassure, when the connection is lost.
    remark: &'static str,
}

impl Patience {
    pub fn new(remark: &'static str) -> Self {
        Self { failing_since: None, delay: FIRST_DELAY, remark }
    }

    pub fn reached(&mut self) {
        *self = Self::new(self.remark);
    }

    /// Waits before another try; gives the error back if it will not pass by itself, or not in time.
    pub async fn wait(&mut self, error: Error) -> Result<(), Error> {
        if !is_passing(&error) {
            return Err(error);
        }
        let since = match self.failing_since {
            Some(since) => since,
            None => {
                note(&format!("The connection is lost ({error}). {}", self.remark));
                *self.failing_since.insert(Instant::now())
            }
        };
        if since.elapsed() > PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        Ok(())
    }
}

fn is_passing(error: &Error) -> bool {
    match error {
        Error::Network(_) => true,
        Error::NotACoordinator { status, .. } => *status >= 500,
        Error::Refused(refused) => matches!(refused.problem.code, Code::Unavailable | Code::TooManyRequests),
        _ => false,
    }
}

/// Watches for Ctrl-C from now on: the first asks the job to stop, the second aborts it, the third ends the future.
pub fn interrupts(client: Client, id: String) -> impl Future<Output = ()> {
    // One watch for all three: what is pressed between two of them is not lost.
    #[cfg(unix)]
    let presses = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    #[cfg(windows)]
    let presses = tokio::signal::windows::ctrl_c();
    async move {
        // Where Ctrl-C cannot be watched, it simply ends the program.
        let Ok(mut presses) = presses else { return std::future::pending().await };
        for mode in [StopMode::Stop, StopMode::Abort] {
            presses.recv().await;
            note(match mode {
                StopMode::Stop => "Asking the job to stop. Ctrl-C again aborts it.",
                StopMode::Abort => "Aborting the job. Ctrl-C again leaves without waiting for its end.",
            });
            // On its own, so that a coordinator that does not answer cannot hold back the next Ctrl-C.
            let (client, id) = (client.clone(), id.clone());
            tokio::spawn(async move {
                if let Err(error) = ask_to_end(&client, &id, mode).await {
                    note(&format!("This could not be asked: {}", error.explain()));
                }
            });
        }
        presses.recv().await;
    }
}

async fn ask_to_end(client: &Client, id: &str, mode: StopMode) -> Result<(), Error> {
    match client.post(&[NOUN, id, "stop"])?.json(&StopJob { mode })?.send().await {
        Ok(_) => Ok(()),
        // It has ended by itself.
        Err(error) if error.code() == Some(Code::WrongState) => Ok(()),
        Err(error) => Err(error),
    }
}
