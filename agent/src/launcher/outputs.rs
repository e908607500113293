//! What a process prints, on its way from the pipes to the spool. Nothing is dropped and memory stays bounded: without room,
//! on the disk or in the spool, the pipes are not read and so hold the process back.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use drover_protocol::log::Level;

use super::{Spec, complain, until_there_is_room};
use crate::{
    clock::wall_clock,
    output::{LineReader, Origin, Record},
    redact::Redactor,
    spool,
};

/// Most reads of one output in a row: more than any pipe holds, so that a writer outside of the tree keeps nobody busy.
const MAX_READS: usize = 64;

struct Output {
    file: File,
    reader: LineReader,
    open: bool,
}

/// The outputs of one process, and the spool that their lines go to.
pub struct Outputs {
    outputs: Vec<Output>,
    spool: spool::Writer,
    spool_limit_bytes: u64,
    /// Lines below it are not kept.
    least: Level,
    redactor: Redactor,
    /// Lines that the disk has not taken yet: of one read, and in the end of what lies in the pipes.
    held: Vec<Record>,
    complained: bool,
}

impl Outputs {
    pub fn new(spec: &Spec, spool: spool::Writer) -> Self {
        Self {
            outputs: Vec::new(),
            spool,
            spool_limit_bytes: spec.spool_limit_bytes,
            least: spec.log_level,
            redactor: Redactor::new(&spec.secrets),
            held: Vec::new(),
            complained: false,
        }
    }

    /// Reads from this pipe as well.
    pub fn add(&mut self, pipe: OwnedFd, origin: Origin) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        self.outputs.push(Output { file: pipe.into(), reader: LineReader::new(origin), open: true });
        Ok(())
    }

    /// Texts of the supervisor about the process, masked.
    pub fn masked(&self, text: &str) -> String {
        self.redactor.text(text)
    }

    /// Whether there is room for more lines. Writes what is held first.
    pub fn have_room(&mut self) -> bool {
        self.write_held();
        self.held.is_empty() && self.spool.stored_bytes() < self.spool_limit_bytes
    }

    pub fn is_any_open(&self) -> bool {
        self.outputs.iter().any(|output| output.open)
    }

    /// The pipes that may still give something, each with its number.
    pub fn open(&self) -> Vec<(usize, RawFd)> {
        let open = self.outputs.iter().enumerate().filter(|(_, output)| output.open);
        open.map(|(at, output)| (at, output.file.as_raw_fd())).collect()
    }

    /// One read of one output; returns whether there may be more.
    pub fn read(&mut self, at: usize) -> bool {
        let mut buffer = [0; 64 * 1024];
        let output = &mut self.outputs[at];
        let mut records = Vec::new();
        let more = match output.file.read(&mut buffer) {
            Ok(0) => {
                output.open = false;
                false
            }
            Ok(count) => {
                output.reader.push(&buffer[..count], &self.redactor, wall_clock(), &mut records);
                true
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => false,
            Err(_) => {
                output.open = false;
                false
            }
        };
        self.store(records);
        more
    }

    /// Reads what lies in the pipes, while the tree is being ended; not while the disk takes nothing.
    pub fn read_available(&mut self) {
        self.write_held();
        if self.held.is_empty() {
            self.empty_pipes();
        }
    }

    fn empty_pipes(&mut self) {
        for at in 0..self.outputs.len() {
            for _ in 0..MAX_READS {
                if !self.outputs[at].open || !self.read(at) {
                    break;
                }
            }
        }
    }

    /// Reads what still lies in the pipes, and the last lines. Does not wait for the pipes' end: a process outside of the tree
    /// may have been given them.
    pub fn read_rest(&mut self) {
        self.empty_pipes();
        let mut records = Vec::new();
        for output in &mut self.outputs {
            output.reader.finish(&self.redactor, wall_clock(), &mut records);
        }
        self.store(records);
    }

    /// Adds a line of the supervisor's own.
    pub fn say(&mut self, level: Level, text: impl Into<String>) {
        self.store(vec![Record::new(wall_clock(), level, text)]);
    }

    fn store(&mut self, records: Vec<Record>) {
        // Progress is kept whatever the level: it is not a line that somebody wanted less of.
        let least = self.least;
        self.held.extend(records.into_iter().filter(|record| record.line.level >= least || record.progress.is_some()));
        self.write_held();
    }

    fn write_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        if let Err(error) = self.spool.append(&self.held) {
            if !std::mem::replace(&mut self.complained, true) {
                complain(format_args!("the log cannot be written: {error}"));
            }
            return;
        }
        self.held.clear();
        self.complained = false;
    }

    /// Writes everything and flushes it, however long the disk is full. The tree is gone by then: only the report waits.
    pub fn close(mut self) -> io::Result<()> {
        until_there_is_room(|| {
            if !self.held.is_empty() {
                self.spool.append(&self.held)?;
                self.held.clear();
            }
            self.spool.sync()
        })
    }
}
