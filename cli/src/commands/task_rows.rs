//! Rows of a file as tasks: columns of CSV become members of the payload, lines of NDJSON are taken as they are. What was
//! exported becomes new tasks, in either kind of file.
//!
//! A row that cannot be a task is told with its line and holds up no other.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Cursor, Read},
};

use clap::{Args, ValueEnum};
use drover_protocol::{
    Timestamp,
    json::too_long_number,
    task::{EXPORT_COLUMNS, NewTask},
};
use serde_json::{Map, Value};

use crate::{error::Error, values};

/// A longer line is no task: its payload is over the limit of the API several times.
const MAX_LINE_BYTES: u64 = 8 * 1024 * 1024;
/// So much at the most is read to find the separator.
const BEGINNING_BYTES: usize = 64 * 1024;

/// How rows become tasks.
#[derive(Args)]
pub struct RowArgs {
    /// Column whose value is the reference of the task
    #[arg(long, value_name = "COLUMN")]
    reference_column: Option<String>,
    /// Column whose value is the name of the task
    #[arg(long, value_name = "COLUMN")]
    name_column: Option<String>,
    /// Column with 1, 2 or 3
    #[arg(long, value_name = "COLUMN", conflicts_with = "priority")]
    priority_column: Option<String>,
    /// Column with a time (2026-11-23, 2026-11-23T18:00, 2026-11-23T18:00:00Z) or empty
    #[arg(long, value_name = "COLUMN", conflicts_with = "deadline")]
    deadline_column: Option<String>,
    /// Column with the time before which the task is not to be taken, or empty
    #[arg(long, value_name = "COLUMN", conflicts_with = "not_before")]
    not_before_column: Option<String>,
    /// Column with tags, separated by commas, semicolons or spaces
    #[arg(long, value_name = "COLUMN")]
    tags_column: Option<String>,
    /// Column with the comment of the task
    #[arg(long, value_name = "COLUMN")]
    comment_column: Option<String>,
    /// Column that is part of the payload (repeatable; default: all)
    #[arg(long = "column", value_name = "COLUMN")]
    columns: Vec<String>,
    /// Another name for a column in the payload (repeatable)
    #[arg(long = "rename", value_parser = values::pair, value_name = "COLUMN=NAME")]
    renames: Vec<(String, String)>,
    /// What the values of a column are: text, integer, number, boolean or json (repeatable; default: text).
    /// An empty one that is no text becomes null
    #[arg(long = "type", value_parser = typed_column, value_name = "COLUMN=TYPE")]
    types: Vec<(String, CellType)>,
    /// What reads as a number or as true or false is one, in all columns without a type
    #[arg(long)]
    infer_types: bool,
    /// What separates the columns (default: the comma, semicolon or tab that the first line has most of)
    #[arg(long, value_parser = delimiter, value_name = "CHARACTER")]
    delimiter: Option<u8>,
    /// Each line of NDJSON is a payload, not a task; column options then name its members
    #[arg(long)]
    payload_lines: bool,
    /// Priority of all: 1 low, 2 normal, 3 high
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    priority: Option<u8>,
    /// Deadline of all
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    deadline: Option<Timestamp>,
    /// None of them is to be taken before this time
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    not_before: Option<Timestamp>,
    /// Tag of all (repeatable)
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Attempts that count, instead of the queue's
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CellType {
    Text,
    Integer,
    Number,
    Boolean,
    Json,
}

/// `column=type`.
fn typed_column(text: &str) -> Result<(String, CellType), String> {
    let (column, name) = values::pair(text)?;
    let kind = CellType::from_str(&name, true)
        .map_err(|_| format!("\"{name}\" is not a type: there are text, integer, number, boolean and json"))?;
    Ok((column, kind))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        ("\\t" | "tab", _) => Ok(b'\t'),
        (_, [byte]) if byte.is_ascii() => Ok(*byte),
        _ => Err(format!("\"{text}\" is not one character such as ; or tab")),
    }
}

/// One row: where it begins, and the task as the API takes it, or why it is none.
pub struct Row {
    /// Counted from 1.
    pub line: u64,
    pub task: Result<Vec<u8>, String>,
}

/// Reads rows one after another, in bounded memory.
pub enum Rows<'a> {
    Csv(Box<CsvRows<'a>>),
    Ndjson(LineRows<'a>),
}

impl<'a> Rows<'a> {
    pub fn csv(args: &'a RowArgs, source: impl Read + Send + 'a) -> Result<Self, Error> {
        Ok(Self::Csv(Box::new(CsvRows::open(args, source)?)))
    }

    pub fn ndjson(args: &'a RowArgs, source: impl Read + Send + 'a) -> Result<Self, Error> {
        if let Some(column) = args.named_columns().next().filter(|_| !args.payload_lines) {
            let text = format!(
                "lines that are whole tasks have no columns such as \"{column}\"; with --payload-lines they do"
            );
            return Err(Error::Usage(text));
        }
        let reader: Box<dyn Read + Send + 'a> = Box::new(source);
        Ok(Self::Ndjson(LineRows { args, reader: BufReader::with_capacity(BEGINNING_BYTES, reader), line: 0 }))
    }

    /// The next row; `None` at the end. Only a file that cannot be read is an error.
    pub fn next(&mut self) -> Result<Option<Row>, Error> {
        match self {
            Self::Csv(rows) => rows.next(),
            Self::Ndjson(rows) => rows.next(),
        }
    }
}

/// The first line at least, if it is not longer than it may be: of a pipe one read may bring a few bytes.
fn beginning_of(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut beginning = vec![0; BEGINNING_BYTES];
    let mut length = 0;
    while length < BEGINNING_BYTES && !beginning[..length].contains(&b'\n') {
        match source.read(&mut beginning[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    beginning.truncate(length);
    Ok(beginning)
}

pub struct CsvRows<'a> {
    args: &'a RowArgs,
    reader: csv::Reader<BufReader<Box<dyn Read + Send + 'a>>>,
    columns: Vec<Column>,
    positions: BTreeMap<String, usize>,
    /// Its rows are tasks that were exported.
    is_export: bool,
    record: csv::ByteRecord,
    lines_behind: u64,
}

struct Column {
    /// In the payload; absent if it is not part of it.
    name: Option<String>,
    kind: Option<CellType>,
}

impl<'a> CsvRows<'a> {
    fn open(args: &'a RowArgs, source: impl Read + Send + 'a) -> Result<Self, Error> {
        let mut source = source;
        let beginning = beginning_of(&mut source).map_err(Error::file("read", "the file"))?;
        let delimiter = args.delimiter.unwrap_or_else(|| likely_delimiter(&beginning));
        // The reader counts a line when it meets its last byte, which of two it does with the next record.
        let lines_behind = u64::from(first_line(&beginning).ends_with(b"\r"));
        let whole: Box<dyn Read + Send + 'a> = Box::new(Cursor::new(beginning).chain(source));
        let buffer = BufReader::with_capacity(BEGINNING_BYTES, whole);
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(buffer);
        let header = reader.byte_headers().map_err(unreadable)?.clone();
        let names: Option<Vec<String>> =
            header.iter().map(|name| Some(std::str::from_utf8(name).ok()?.trim().to_owned())).collect();
        let Some(names) = names else {
            return Err(Error::Usage("the header is not UTF-8: save the file as UTF-8".to_owned()));
        };
        let positions: BTreeMap<String, usize> =
            names.iter().enumerate().map(|(position, name)| (name.clone(), position)).collect();
        if names.is_empty() || names.iter().any(String::is_empty) || positions.len() != names.len() {
            return Err(Error::Usage("the first line must name the columns, each by a name of its own".to_owned()));
        }
        check_names(args, &positions, &names)?;
        // Whoever names columns has an idea of their own of what they are.
        let is_export = args.named_columns().next().is_none()
            && EXPORT_COLUMNS.iter().all(|column| positions.contains_key(*column));
        if let Some(more) = names.iter().find(|name| is_export && !EXPORT_COLUMNS.contains(&name.as_str())) {
            return Err(Error::Usage(format!(
                "the file has all the columns of an export of tasks, and \"{more}\", which is none of them: take it out, \
                 or say by --column what belongs to the payload"
            )));
        }
        let columns = names.iter().map(|name| column(args, name)).collect();
        Ok(Self { args, reader, columns, positions, is_export, record: csv::ByteRecord::new(), lines_behind })
    }

    fn next(&mut self) -> Result<Option<Row>, Error> {
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let line = self.record.position().map_or(0, csv::Position::line) + self.lines_behind;
                let task = self.task().and_then(|task| to_line(&task));
                Ok(Some(Row { line, task }))
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    fn task(&self) -> Result<NewTask, String> {
        if self.record.len() != self.columns.len() {
            return Err(format!("has {} columns, but the first line names {}", self.record.len(), self.columns.len()));
        }
        let mut payload = Map::new();
        let mut cells = Vec::with_capacity(self.columns.len());
        for (column, cell) in self.columns.iter().zip(&self.record) {
            let cell = std::str::from_utf8(cell).map_err(|_| "is not UTF-8: save the file as UTF-8".to_owned())?;
            cells.push(cell);
            if let Some(name) = column.name.as_ref().filter(|_| !self.is_export) {
                let value = typed(cell, column.kind, self.args.infer_types).map_err(|why| format!("{name}: {why}"))?;
                payload.insert(name.clone(), value);
            }
        }
        let cell = |name: &str| self.positions.get(name).map(|position| cells[*position].to_owned());
        match self.is_export {
            true => exported(self.args, cell),
            false => task(self.args, payload.into(), cell),
        }
    }
}

fn unreadable(error: csv::Error) -> Error {
    Error::Usage(format!("the file cannot be read as CSV: {error}"))
}

/// Every column that an option names must be there.
fn check_names(args: &RowArgs, positions: &BTreeMap<String, usize>, names: &[String]) -> Result<(), Error> {
    match args.named_columns().find(|name| !positions.contains_key(*name)) {
        None => Ok(()),
        Some(missing) => {
            Err(Error::Usage(format!("there is no column \"{missing}\"; the file has {}", names.join(", "))))
        }
    }
}

fn column(args: &RowArgs, name: &str) -> Column {
    let is_wanted = args.columns.is_empty() || args.columns.iter().any(|wanted| wanted == name);
    let renamed = args.renames.iter().find(|(column, _)| column == name).map(|(_, new)| new.as_str());
    let kind = args.types.iter().find(|(column, _)| column == name).map(|(_, kind)| *kind);
    Column { name: is_wanted.then(|| renamed.unwrap_or(name).to_owned()), kind }
}

/// The one that stands most often outside of quotes in the first line.
fn likely_delimiter(beginning: &[u8]) -> u8 {
    let line = first_line(beginning);
    let count = |delimiter: u8| {
        let mut quoted = false;
        line.iter()
            .filter(|byte| {
                quoted ^= **byte == b'"';
                !quoted && **byte == delimiter
            })
            .count()
    };
    // Of equal ones the comma, which comes last and therefore wins.
    [b'\t', b';', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

fn first_line(beginning: &[u8]) -> &[u8] {
    beginning.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

fn typed(cell: &str, kind: Option<CellType>, infer: bool) -> Result<Value, String> {
    let text = cell.trim();
    let kind = match kind {
        Some(kind) => kind,
        None if infer => return Ok(inferred(cell, text)),
        None => CellType::Text,
    };
    if text.is_empty() && kind != CellType::Text {
        return Ok(Value::Null);
    }
    let wrong = |what: &str| format!("\"{text}\" is not {what}");
    match kind {
        CellType::Text => Ok(cell.into()),
        CellType::Integer => text.parse::<i64>().map(Value::from).map_err(|_| wrong("a whole number")),
        CellType::Number => number(text),
        CellType::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => Ok(true.into()),
            "false" | "no" | "0" => Ok(false.into()),
            _ => Err(wrong("true or false")),
        },
        CellType::Json => values::exact_json(text.as_bytes()),
    }
}

fn number(text: &str) -> Result<Value, String> {
    // Not JSON, but a number all the same: +5, 007, .5.
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(whole), _) => Ok(whole.into()),
        (Err(_), Ok(_)) if too_long_number(text.as_bytes()).is_some() => {
            Err(format!("\"{text}\" has more digits than a number keeps; take the column as text"))
        }
        (Err(_), Ok(number)) if number.is_finite() => Ok(serde_json::from_str(text).unwrap_or_else(|_| number.into())),
        _ => Err(format!("\"{text}\" is not a number")),
    }
}

fn inferred(cell: &str, text: &str) -> Value {
    match values::exact_json(text.as_bytes()) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => cell.into(),
    }
}

/// A task with what holds for all, and what its own cells say.
fn task(args: &RowArgs, payload: Value, cell: impl Fn(&str) -> Option<String>) -> Result<NewTask, String> {
    let given = |column: &Option<String>| {
        let text = cell(column.as_ref()?)?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let time = |column: &Option<String>, all: Option<Timestamp>| match given(column) {
        // One that counts from now would make another line of it when the import goes on.
        Some(text) => values::fixed_moment(&text).map(Some),
        None => Ok(all),
    };
    let priority = match given(&args.priority_column) {
        Some(text) => Some(text.parse().map_err(|_| format!("\"{text}\" is not a priority: 1, 2 or 3"))?),
        None => args.priority,
    };
    let mut tags = args.tags.clone();
    let own = given(&args.tags_column).unwrap_or_default();
    tags.extend(own.split([',', ';', ' ']).map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned));
    Ok(NewTask {
        reference: given(&args.reference_column),
        name: given(&args.name_column),
        payload,
        priority,
        deadline: time(&args.deadline_column, args.deadline)?,
        postponed_until: time(&args.not_before_column, args.not_before)?,
        tags,
        comment: given(&args.comment_column),
        max_attempts: args.max_attempts,
    })
}

/// A row of an export as a new task: what only the coordinator says of a task is left out, and what is given for all wins.
fn exported(args: &RowArgs, cell: impl Fn(&str) -> Option<String>) -> Result<NewTask, String> {
    let text = |name: &str| cell(name).filter(|text| !text.is_empty());
    let time = |name: &str| text(name).map(|text| values::fixed_moment(&text)).transpose();
    let priority =
        text("priority").map(|text| text.parse().map_err(|_| format!("\"{text}\" is not a priority: 1, 2 or 3")));
    let payload = text("payload").unwrap_or_default();
    Ok(args.for_all(NewTask {
        reference: text("reference"),
        name: text("name"),
        payload: values::exact_json(payload.as_bytes()).map_err(|why| format!("payload: {why}"))?,
        priority: priority.transpose()?,
        deadline: time("deadline")?,
        postponed_until: time("postponed_until")?,
        tags: text("tags").iter().flat_map(|tags| tags.split(',')).map(str::to_owned).collect(),
        comment: text("comment"),
        max_attempts: None,
    }))
}

impl RowArgs {
    /// A task that the file has as a whole, with what is given for all: that wins, and tags come to its own.
    fn for_all(&self, task: NewTask) -> NewTask {
        let more = self.tags.iter().filter(|tag| !task.tags.contains(tag)).cloned();
        NewTask {
            priority: self.priority.or(task.priority),
            deadline: self.deadline.or(task.deadline),
            postponed_until: self.not_before.or(task.postponed_until),
            tags: more.chain(task.tags.iter().cloned()).collect(),
            max_attempts: self.max_attempts.or(task.max_attempts),
            ..task
        }
    }

    /// Every column that an option names.
    fn named_columns(&self) -> impl Iterator<Item = &String> {
        let single = [
            &self.reference_column,
            &self.name_column,
            &self.priority_column,
            &self.deadline_column,
            &self.not_before_column,
            &self.tags_column,
            &self.comment_column,
        ];
        let renamed = self.renames.iter().map(|(column, _)| column);
        let typed = self.types.iter().map(|(column, _)| column);
        single.into_iter().flatten().chain(&self.columns).chain(renamed).chain(typed)
    }

    /// The options with times as they have to be given when the import goes on: it would find other lines if they counted from
    /// another moment.
    pub fn same_times(&self) -> String {
        let option =
            |name: &str, time: Option<Timestamp>| time.map(|time| format!(" --{name} {time}")).unwrap_or_default();
        option("deadline", self.deadline) + &option("not-before", self.not_before)
    }
}

fn to_line(task: &NewTask) -> Result<Vec<u8>, String> {
    let mut line = serde_json::to_vec(task).map_err(|error| error.to_string())?;
    line.push(b'\n');
    Ok(line)
}

/// What only the coordinator says of a task.
const OF_COORDINATOR: [&str; 18] = [
    "id",
    "queue_id",
    "state",
    "error",
    "output",
    "progress",
    "checkpoint",
    "attempt",
    "tries",
    "attempts",
    "holder",
    "lease_ends_at",
    "created_at",
    "started_at",
    "finished_at",
    "files",
    "origin_task_id",
    "revision",
];

/// A task that was exported, as a new one. Anything else stays as it is, so that what is misspelt is told.
fn as_new(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value
        && ["id", "queue_id", "state", "revision"].iter().all(|name| members.contains_key(*name))
    {
        members.retain(|name, _| !OF_COORDINATOR.contains(&name.as_str()));
    }
    value
}

pub struct LineRows<'a> {
    args: &'a RowArgs,
    reader: BufReader<Box<dyn Read + Send + 'a>>,
    line: u64,
}

impl LineRows<'_> {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let mut text = Vec::new();
            let read = self.reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text);
            if read.map_err(Error::file("read", "the file"))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if text.len() as u64 >= MAX_LINE_BYTES && !text.ends_with(b"\n") {
                self.skip_line()?;
                return Ok(Some(Row { line: self.line, task: Err("is longer than a task may be".to_owned()) }));
            }
            if !text.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Row { line: self.line, task: self.task(&text) }));
            }
        }
    }

    fn skip_line(&mut self) -> Result<(), Error> {
        loop {
            let piece = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(Error::file("read", "the file"))?,
            };
            let end = piece.iter().position(|byte| *byte == b'\n');
            let length = piece.len();
            self.reader.consume(end.map_or(length, |end| end + 1));
            if end.is_some() || length == 0 {
                return Ok(());
            }
        }
    }

    fn task(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let value = values::exact_json(text)?;
        if !self.args.payload_lines {
            let new: NewTask = serde_json::from_value(as_new(value)).map_err(|error| error.to_string())?;
            return to_line(&self.args.for_all(new));
        }
        let members = value.as_object().cloned().unwrap_or_default();
        let cell = |name: &str| match members.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        to_line(&task(self.args, value, cell)?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        rows: RowArgs,
    }

    fn args(arguments: &[&str]) -> RowArgs {
        Line::parse_from([&["x"], arguments].concat()).rows
    }

    fn all(rows: Result<Rows, Error>) -> Vec<(u64, Result<Value, String>)> {
        let mut rows = rows.expect("it begins well");
        let mut found = Vec::new();
        while let Some(row) = rows.next().expect("it is readable") {
            found.push((row.line, row.task.map(|line| serde_json::from_slice(&line).expect("JSON"))));
        }
        found
    }

    fn csv(arguments: &[&str], text: &str) -> Vec<(u64, Result<Value, String>)> {
        let args = args(arguments);
        all(Rows::csv(&args, text.as_bytes()))
    }

    #[test]
    fn columns_become_members_and_lines_are_counted_over_quoted_breaks() {
        let found = csv(&[], "\u{feff}a,b\r\n1,\"x\ny\"\r\n2,Müller\r\n");
        assert_eq!(found[0], (2, Ok(json!({"payload": {"a": "1", "b": "x\ny"}}))));
        assert_eq!(found[1], (4, Ok(json!({"payload": {"a": "2", "b": "Müller"}}))));
    }

    /// A pipe brings what its writer has written so far, which may be less than the first line.
    #[test]
    fn the_separator_is_found_however_the_first_line_comes() {
        let (first, rest) = b"invoice;amount\r\n1;2,5\r\n".split_at(7);
        let args = args(&[]);
        let found = all(Rows::csv(&args, first.chain(rest)));
        assert_eq!(found, [(2, Ok(json!({"payload": {"invoice": "1", "amount": "2,5"}})))]);
    }

    #[test]
    fn the_separator_is_found() {
        for text in ["a;b\n1;2,5\n", "a\tb\n1\t2,5\n"] {
            assert_eq!(csv(&[], text)[0].1, Ok(json!({"payload": {"a": "1", "b": "2,5"}})), "{text:?}");
        }
        assert_eq!(csv(&["--delimiter", "|"], "a|b\n1|2\n")[0].1, Ok(json!({"payload": {"a": "1", "b": "2"}})));
        assert_eq!(likely_delimiter(b"\"a;b;c\",d\n;;;;"), b',');
    }

    #[test]
    fn cells_get_their_types_and_wrong_ones_hold_up_no_other_row() {
        let arguments = ["--type", "n=integer", "--type", "x=number", "--type", "ok=boolean", "--type", "j=json"];
        let found = csv(&arguments, "n,x,ok,j,t\n1,2.50,yes,[1],007\n,,,,\nmuch,1,true,1,x\n1,2\n");
        let expected = json!({"payload": {"n": 1, "x": 2.5, "ok": true, "j": [1], "t": "007"}});
        assert_eq!(found[0].1, Ok(expected));
        let empty = json!({"payload": {"n": null, "x": null, "ok": null, "j": null, "t": ""}});
        assert_eq!(found[1].1, Ok(empty));
        assert_eq!(found[2], (4, Err("n: \"much\" is not a whole number".to_owned())));
        assert_eq!(found[3], (5, Err("has 2 columns, but the first line names 5".to_owned())));
        let found = csv(&["--infer-types"], "a,b,c,d\n1,true,007,null\n");
        assert_eq!(found[0].1, Ok(json!({"payload": {"a": 1, "b": true, "c": "007", "d": "null"}})));
    }

    /// Two accounts whose numbers begin alike stay two, or are told; none becomes a duplicate of the other.
    #[test]
    fn numbers_that_would_lose_digits_stay_texts_or_are_told() {
        let rows = "no\n40817810099910004312\n-1\n+1234567890123456789\n";
        let inferred = csv(&["--infer-types", "--reference-column", "no"], rows);
        let expected = json!({"payload": {"no": "40817810099910004312"}, "reference": "40817810099910004312"});
        assert_eq!(inferred[0].1, Ok(expected));
        let typed = csv(&["--type", "no=number"], rows);
        assert!(typed[0].1.as_ref().is_err_and(|why| why.contains("40817810099910004312")), "{typed:?}");
        assert_eq!(typed[1].1, Ok(json!({"payload": {"no": -1}})));
        assert_eq!(typed[2].1, Ok(json!({"payload": {"no": 1_234_567_890_123_456_789_i64}})));
        let arguments = args(&["--payload-lines", "--reference-column", "no"]);
        let lines = "{\"no\": 40817810099910004312}\n{\"no\": \"40817810099910004312\"}\n";
        let found = all(Rows::ndjson(&arguments, lines.as_bytes()));
        assert!(found[0].1.as_ref().is_err_and(|why| why.contains("40817810099910004312")), "{found:?}");
        assert!(found[1].1.is_ok(), "{found:?}");
    }

    #[test]
    fn columns_say_what_else_belongs_to_the_task() {
        let arguments = [
            "--reference-column",
            "no",
            "--priority-column",
            "p",
            "--deadline-column",
            "due",
            "--tags-column",
            "t",
            "--tag",
            "all",
            "--column",
            "sum",
            "--rename",
            "sum=total",
            "--max-attempts",
            "3",
        ];
        let found = csv(&arguments, "no,p,due,t,sum\nA-1,3,2026-11-23T18:00:00Z,\"x; y\",5\nA-2,,,,6\nA-3,high,,,7\n");
        let expected = json!({
            "payload": {"total": "5"}, "reference": "A-1", "priority": 3, "deadline": "2026-11-23T18:00:00.000Z",
            "tags": ["all", "x", "y"], "max_attempts": 3,
        });
        assert_eq!(found[0].1, Ok(expected));
        let relative = csv(&["--deadline-column", "due"], "due\n2h\n");
        assert!(relative[0].1.as_ref().is_err_and(|why| why.contains("is not a time")), "{relative:?}");
        let plain = json!({"payload": {"total": "6"}, "reference": "A-2", "tags": ["all"], "max_attempts": 3});
        assert_eq!(found[1].1, Ok(plain));
        assert!(found[2].1.as_ref().is_err_and(|why| why.contains("priority")), "{:?}", found[2]);
    }

    #[test]
    fn columns_that_are_not_there_and_headers_that_name_nothing_are_refused() {
        let wrong = args(&["--reference-column", "nr"]);
        let refused = Rows::csv(&wrong, "no,sum\n".as_bytes()).err().expect("it is refused").to_string();
        assert!(refused.contains("\"nr\"") && refused.contains("no, sum"), "{refused}");
        let plain = args(&[]);
        for text in ["", "a,a\n", "a,\n"] {
            assert!(Rows::csv(&plain, text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Rows::csv(&plain, &b"gr\xfc\xdfe\n"[..]).is_err());
    }

    #[test]
    fn lines_are_tasks_or_payloads() {
        let text = "{\"payload\": 1, \"reference\": \"r\"}\n\n{\"payload\"\n{\"payloads\": 1}\n";
        let plain = args(&[]);
        let found = all(Rows::ndjson(&plain, text.as_bytes()));
        assert_eq!(found[0], (1, Ok(json!({"payload": 1, "reference": "r"}))));
        assert_eq!((found[1].0, found[2].0), (3, 4));
        assert!(found[1].1.is_err() && found[2].1.as_ref().is_err_and(|why| why.contains("payloads")));
        let payloads = args(&["--payload-lines", "--reference-column", "no"]);
        let found = all(Rows::ndjson(&payloads, "{\"no\": 7, \"a\": [1]}\n".as_bytes()));
        assert_eq!(found[0].1, Ok(json!({"payload": {"no": 7, "a": [1]}, "reference": "7"})));
    }

    /// What was exported is imported again as new tasks, whatever the coordinator says of a task.
    #[test]
    fn lines_of_an_export_are_tasks() {
        let holder = json!({"by": "user:1", "robot_id": null, "job_id": null});
        let id = "0192f6c4-7a10-7cc3-98c4-dc0c0c073991";
        let exported = json!({
            "id": id, "queue_id": id, "reference": "A-1", "name": null, "payload": {"total": 5}, "state": "failed",
            "error": {"kind": "business", "message": "no"}, "output": 1, "priority": 3, "deadline": null,
            "postponed_until": null, "tags": ["x"], "comment": "c", "progress": {"percent": 5.0}, "checkpoint": [1],
            "attempt": 1, "tries": 1, "max_attempts": 4, "attempts": [], "holder": holder, "lease_ends_at": null,
            "created_at": "2026-01-01T00:00:00.000Z", "started_at": null, "finished_at": null, "files": [],
            "origin_task_id": null, "revision": 3,
        });
        let task: drover_protocol::task::Task = serde_json::from_value(exported).expect("it is a task");
        let text = serde_json::to_string(&task).expect("a task can be written");
        let expected = json!({"reference": "A-1", "payload": {"total": 5}, "priority": 3, "tags": ["x"], "comment": "c",
            "max_attempts": 4});
        assert_eq!(all(Rows::ndjson(&args(&[]), text.as_bytes())), [(1, Ok(expected))]);
        let misspelt = "{\"payload\": 1, \"attempt\": 1}";
        assert!(all(Rows::ndjson(&args(&[]), misspelt.as_bytes()))[0].1.is_err());
    }

    /// An export as CSV is one as NDJSON is: the same tasks again, and nothing of the coordinator's in their payload.
    #[test]
    fn rows_of_an_export_are_tasks() {
        let header = EXPORT_COLUMNS.join(",");
        let rows = "7,8,A-1,n,failed,business,,no,3,2026-11-23T18:00:00.000Z,,\"x,two words\",c,1,1,,2026-01-01T00:00:00.000Z,,,,\
                    \"{\"\"total\"\": 5}\",1,[1]\n7,8,,,new,,,,2,,,,,0,0,,2026-01-01T00:00:00.000Z,,,,\"\"\"text\"\"\",,\n\
                    7,8,,,new,,,,2,,,,,0,0,,2026-01-01T00:00:00.000Z,,,,{,,\n";
        let text = format!("{header}\n{rows}");
        let found = csv(&[], &text);
        let expected = json!({"reference": "A-1", "name": "n", "payload": {"total": 5}, "priority": 3,
            "deadline": "2026-11-23T18:00:00.000Z", "tags": ["x", "two words"], "comment": "c"});
        assert_eq!(found[0].1, Ok(expected));
        assert_eq!(found[1].1, Ok(json!({"payload": "text", "priority": 2})));
        assert!(found[2].1.as_ref().is_err_and(|why| why.starts_with("payload: is not JSON")), "{:?}", found[2]);
        let all = csv(&["--priority", "1", "--tag", "again", "--max-attempts", "2"], &text);
        assert_eq!(all[1].1, Ok(json!({"payload": "text", "priority": 1, "tags": ["again"], "max_attempts": 2})));
        // The options say what the columns are.
        let own = csv(&["--column", "payload"], &text);
        assert_eq!(own[1].1, Ok(json!({"payload": {"payload": "\"text\""}})));
        let refused = Rows::csv(&args(&[]), format!("{header},mine\n").as_bytes()).err().expect("it is refused");
        assert!(refused.to_string().contains("\"mine\""), "{refused}");
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped() {
        let long = format!("\"{}\"\n{{\"payload\": 2}}\n", "x".repeat(MAX_LINE_BYTES as usize));
        let plain = args(&[]);
        let found = all(Rows::ndjson(&plain, long.as_bytes()));
        assert_eq!(found[0], (1, Err("is longer than a task may be".to_owned())));
        assert_eq!(found[1], (2, Ok(json!({"payload": 2}))));
    }
}
