//! `drover task import`: a file becomes tasks of a queue, in one stream each way, with an answer for each row.
//!
//! The whole import has one `Idempotency-Key`. When the connection breaks, everything is sent again under it, and rows
//! that are there already are answered with the tasks that they are.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::{Args, ValueEnum};
use drover_protocol::{
    problem::Code,
    task::{BulkLine, BulkSum},
};
use futures::{TryStreamExt, stream};
use indicatif::ProgressBar;
use reqwest::{Body, Response};

use crate::{
    client::Lines,
    clock,
    commands::{
        queue,
        task::NOUN,
        task_export::Format,
        task_rows::{RowArgs, Rows},
    },
    decode::decode,
    error::{EXIT_FAILURE, Error},
    output::note,
    session::Session,
    transfer,
};

/// So much of the file is sent at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// The longest pause between two tries; together they outlast the restart of a coordinator.
const RETRY_DELAYS_SECONDS: [u64; 6] = [1, 2, 4, 8, 15, 30];
/// So many wrong rows are told at once; all are in the file of errors.
const SHOWN_ERRORS: u64 = 10;
/// The first line of the list of rows that could not be added.
const ERROR_COLUMNS: [&str; 2] = ["line", "error"];
/// Stands in for a row that is no task, so that the others keep their numbers.
const PLACEHOLDER: &[u8] = b"null\n";

#[derive(Args)]
pub struct ImportArgs {
    /// Name or id of the queue
    queue: String,
    /// CSV file whose first line names the columns, or NDJSON file; - for standard input. What "task export" has written, as
    /// either, becomes new tasks with the references, payloads and so on of the old ones
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Kind of file (default: by its name, else CSV)
    #[arg(long, value_enum)]
    format: Option<FileKind>,
    #[command(flatten)]
    rows: RowArgs,
    /// Where rows are listed that could not be added (default: beside the file, FILE.errors.csv)
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,
    /// Only read the file and say what is wrong with it
    #[arg(long)]
    dry_run: bool,
    /// Goes on with an import that was broken off: what was added under this key within 24 hours is not added again
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FileKind {
    /// One row per task; its cells become the members of the payload, unless options say otherwise
    Csv,
    /// One task per line, as JSON
    Ndjson,
}

pub async fn import(session: &Session, args: ImportArgs) -> Result<u8, Error> {
    let args = Arc::new(args);
    args.check_errors_path()?;
    if args.dry_run {
        return dry_run(session, &args);
    }
    let key = args.idempotency_key.clone().unwrap_or_else(clock::new_idempotency_key);
    let mut delays = RETRY_DELAYS_SECONDS.iter();
    let mut furthest = 0;
    loop {
        let mut report = Report::new(session, &args);
        match send(session, &args, &key, &mut report).await {
            Ok(()) => return report.end(),
            Err(error) => {
                if report.answered > furthest {
                    // It got further than before: the way is not blocked.
                    furthest = report.answered;
                    delays = RETRY_DELAYS_SECONDS.iter();
                }
                match delays.next().filter(|_| is_passing(&error) && !args.is_standard_input()) {
                    Some(seconds) => {
                        note(&format!(
                            "The connection broke after {} rows; trying again in {seconds} s.",
                            report.answered
                        ));
                        tokio::time::sleep(Duration::from_secs(*seconds)).await;
                    }
                    None => {
                        if is_passing(&error) {
                            note(&format!(
                                "{furthest} rows were answered. Go on with --idempotency-key {key}{}: nothing is added \
                                 twice.",
                                args.rows.same_times()
                            ));
                        }
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl ImportArgs {
    fn is_standard_input(&self) -> bool {
        self.file.as_os_str() == "-"
    }

    fn open(&self) -> Result<(Source, Option<u64>), Error> {
        if self.is_standard_input() {
            return Ok((Box::new(io::stdin()), None));
        }
        let file = File::open(&self.file).map_err(Error::file("read", &self.file))?;
        let facts = file.metadata().map_err(Error::file("read", &self.file))?;
        if !facts.is_file() {
            // It is opened several times, and what was read of a pipe is gone.
            let text = format!("{} is no file: give it as standard input, with - in its place", self.file.display());
            return Err(Error::Usage(text));
        }
        Ok((Box::new(file), Some(facts.len())))
    }

    /// Refuses a file whose beginning says already that it cannot be read. Answers what was read of standard input for it.
    fn check_beginning(&self) -> Result<Vec<u8>, Error> {
        let mut beginning = Vec::new();
        self.rows(Recorder { source: self.open()?.0, read: &mut beginning })?;
        if !self.is_standard_input() {
            beginning.clear();
        }
        Ok(beginning)
    }

    fn rows<'a>(&'a self, source: impl Read + Send + 'a) -> Result<Rows<'a>, Error> {
        match (self.format, Format::of_name(&self.file)) {
            (Some(FileKind::Ndjson), _) | (None, Some(Format::Ndjson)) => Rows::ndjson(&self.rows, source),
            (Some(FileKind::Csv), _) | (None, Some(Format::Csv) | None) => Rows::csv(&self.rows, source),
        }
    }

    fn check_errors_path(&self) -> Result<(), Error> {
        let path = self.errors_path();
        if path.as_os_str() == "-" {
            return Err(Error::Usage("--errors needs the name of a file".to_owned()));
        }
        let is_same = |file: PathBuf| path.canonicalize().is_ok_and(|path| path == file);
        if self.file.canonicalize().is_ok_and(is_same) {
            return Err(Error::Usage("--errors names the very file that is to be imported".to_owned()));
        }
        Ok(())
    }

    fn errors_path(&self) -> PathBuf {
        self.errors.clone().unwrap_or_else(|| match self.is_standard_input() {
            true => PathBuf::from("import.errors.csv"),
            false => {
                let mut name = self.file.clone().into_os_string();
                name.push(".errors.csv");
                name.into()
            }
        })
    }
}

type Source = Box<dyn Read + Send>;

/// Keeps what is read through it.
struct Recorder<'a> {
    source: Source,
    read: &'a mut Vec<u8>,
}

impl Read for Recorder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.read.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

/// Whether the same may work a little later.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Network(_)) || error.code() == Some(Code::Unavailable)
}

fn dry_run(session: &Session, args: &ImportArgs) -> Result<u8, Error> {
    let (source, _) = args.open()?;
    let mut rows = args.rows(source)?;
    let mut report = Report::new(session, args);
    let mut good = 0;
    while let Some(row) = rows.next()? {
        match row.task {
            Ok(_) => good += 1,
            Err(why) => report.wrong(row.line, &why)?,
        }
    }
    session.out.line(&format!("{good} rows can be sent, {} cannot. Nothing was added.", report.sum.failed))?;
    report.close()?;
    Ok(if report.sum.failed == 0 { 0 } else { EXIT_FAILURE })
}

/// A row that was sent and waits for its answer.
struct Sent {
    line: u64,
    /// Why it is no task; a placeholder was sent.
    wrong: Option<String>,
}

type Waiting = Arc<Mutex<VecDeque<Sent>>>;

/// Sends the file from its beginning, and reads the answers meanwhile.
async fn send(session: &Session, args: &Arc<ImportArgs>, key: &str, report: &mut Report<'_>) -> Result<(), Error> {
    let waiting = Waiting::default();
    let (_, size_bytes) = args.open()?;
    let bar = transfer::progress_bar("importing", size_bytes);
    // Before anything is sent, so that a file that cannot be read says so itself.
    let mut beginning = args.check_beginning()?;
    let lines: Lines = {
        let (args, waiting, bar) = (args.clone(), waiting.clone(), bar.clone());
        Box::new(move || {
            waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
            bar.set_position(0);
            let source: Source = Box::new(io::Cursor::new(std::mem::take(&mut beginning)).chain(args.open()?.0));
            Ok(body(args.clone(), source, waiting.clone(), bar.clone()))
        })
    };
    let call = session.client.post(&[queue::NOUN, &args.queue, NOUN, "bulk"])?.under_key(key.to_owned());
    let call = call.lines(lines).once(args.is_standard_input());
    let response = call.accept("application/x-ndjson").open().await?;
    let result = receive(response, &waiting, report).await;
    bar.finish_and_clear();
    result
}

/// The rows as a stream of pieces, read as fast as they are sent.
fn body(args: Arc<ImportArgs>, source: Source, waiting: Waiting, bar: ProgressBar) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Vec<u8>>>(2);
    // Reading a file or a pipe may take its time.
    std::thread::spawn(move || {
        let result = read_rows(&args, bar.wrap_read(source), &waiting, |piece| sender.blocking_send(Ok(piece)).is_ok());
        if let Err(error) = result {
            let _ = sender.blocking_send(Err(io::Error::other(error.explain())));
        }
    });
    Body::wrap_stream(stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))))
}

fn read_rows(
    args: &ImportArgs,
    source: impl Read + Send,
    waiting: &Waiting,
    send: impl Fn(Vec<u8>) -> bool,
) -> Result<(), Error> {
    let mut rows = args.rows(source)?;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    loop {
        let row = rows.next()?;
        let is_end = row.is_none();
        if let Some(row) = row {
            let wrong = match row.task {
                Ok(line) => {
                    piece.extend_from_slice(&line);
                    None
                }
                Err(why) => {
                    piece.extend_from_slice(PLACEHOLDER);
                    Some(why)
                }
            };
            waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(Sent { line: row.line, wrong });
        }
        if (piece.len() >= PIECE_BYTES || is_end) && !piece.is_empty() && !send(std::mem::take(&mut piece)) {
            return Ok(());
        }
        if is_end {
            return Ok(());
        }
    }
}

async fn receive(response: Response, waiting: &Waiting, report: &mut Report<'_>) -> Result<(), Error> {
    let server = response.url().origin().ascii_serialization();
    let mut pieces = response.bytes_stream();
    let mut text: Vec<u8> = Vec::new();
    let mut sum = None;
    while let Some(piece) = pieces.try_next().await.map_err(|error| transfer::broken_off(&server, &error))? {
        text.extend_from_slice(&piece);
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match decode::<BulkLine>(line)? {
                BulkLine::Sum(last) => sum = Some(last),
                answer => {
                    let sent = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let sent = sent.ok_or_else(|| Error::Answer("more rows are answered than were sent".to_owned()))?;
                    report.answer(&sent, answer)?;
                }
            }
        }
        text.drain(..whole);
    }
    let left = waiting.lock().unwrap_or_else(PoisonError::into_inner).len();
    match sum {
        Some(_) if left == 0 => Ok(()),
        _ => Err(transfer::incomplete(&server)),
    }
}

/// What has become of the rows.
struct Report<'a> {
    session: &'a Session,
    path: PathBuf,
    file: Option<csv::Writer<File>>,
    sum: BulkSum,
    answered: u64,
}

impl<'a> Report<'a> {
    fn new(session: &'a Session, args: &ImportArgs) -> Self {
        Self { session, path: args.errors_path(), file: None, sum: BulkSum::default(), answered: 0 }
    }

    fn answer(&mut self, sent: &Sent, answer: BulkLine) -> Result<(), Error> {
        self.answered += 1;
        let (line, why) = (sent.line, sent.wrong.as_deref());
        match answer {
            BulkLine::Added { id, .. } => {
                self.sum.added += 1;
                self.json(&BulkLine::Added { line, id })
            }
            BulkLine::Duplicate { duplicate_of, .. } => {
                self.sum.duplicates += 1;
                self.json(&BulkLine::Duplicate { line, duplicate_of })
            }
            BulkLine::Failed { mut error, .. } => {
                if let Some(why) = why {
                    error.detail = why.to_owned();
                    error.errors.clear();
                }
                let fields = error.errors.iter().map(|field| format!("{}: {}", field.pointer, field.detail));
                let fields = fields.collect::<Vec<_>>().join("; ");
                self.wrong(line, if fields.is_empty() { &error.detail } else { &fields })?;
                self.json(&BulkLine::Failed { line, error })
            }
            BulkLine::Sum(_) => Ok(()),
        }
    }

    fn json(&self, line: &BulkLine) -> Result<(), Error> {
        if !self.session.out.is_json() {
            return Ok(());
        }
        let text = serde_json::to_string(line).map_err(|error| Error::Answer(error.to_string()))?;
        self.session.out.line(&text)
    }

    fn wrong(&mut self, line: u64, why: &str) -> Result<(), Error> {
        self.sum.failed += 1;
        if self.sum.failed <= SHOWN_ERRORS {
            note(&format!("line {line}: {why}"));
        }
        let path = &self.path;
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut file = csv::Writer::from_path(path).map_err(|error| unwritable(path, error))?;
                file.write_record(ERROR_COLUMNS).map_err(|error| unwritable(path, error))?;
                self.file.insert(file)
            }
        };
        file.write_record([&line.to_string(), why]).map_err(|error| unwritable(path, error))
    }

    /// What an earlier import found wrong is not true any more, now that one has found nothing. Only a list is removed.
    fn forget_errors(&self) -> Result<(), Error> {
        let is_file = fs::symlink_metadata(&self.path).is_ok_and(|there| there.is_file());
        let is_list = |mut file: csv::Reader<File>| file.headers().is_ok_and(|columns| columns == ERROR_COLUMNS[..]);
        if is_file && csv::Reader::from_path(&self.path).is_ok_and(is_list) {
            fs::remove_file(&self.path).map_err(Error::file("remove", &self.path))?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        file.flush().map_err(Error::file("write", &self.path))?;
        let more = self.sum.failed.saturating_sub(SHOWN_ERRORS);
        let text = if more > 0 { format!("… and {more} more. ") } else { String::new() };
        note(&format!("{text}All of them with their lines: {}", self.path.display()));
        Ok(())
    }

    fn end(mut self) -> Result<u8, Error> {
        self.close()?;
        if self.sum.failed == 0 {
            self.forget_errors()?;
        }
        let BulkSum { added, duplicates, failed } = self.sum;
        if self.session.out.is_json() {
            self.json(&BulkLine::Sum(self.sum))?;
        } else {
            self.session.out.line(&format!(
                "{added} tasks added, {duplicates} were there already, {failed} rows could not be added."
            ))?;
        }
        Ok(if failed == 0 { 0 } else { EXIT_FAILURE })
    }
}

fn unwritable(path: &Path, error: csv::Error) -> Error {
    Error::file("write", path)(error.into())
}
