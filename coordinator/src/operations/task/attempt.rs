//! Attempts of a task as they are read: the newest stands in the task itself, those that are past beside it.

use drover_protocol::page::PageQuery;

use crate::{
    domain::task::{Attempt, Task},
    error::Result,
    operations::list::{self, Page, Via},
    store::{Reading, Record, Scan, key::Kind, schema::PastAttempt, table},
};

/// So many attempts a task shows itself.
const SHOWN_ATTEMPTS: usize = 100;

/// The newest attempts of a task, as many as it shows itself, oldest first.
pub fn newest_attempts(reading: &dyn Reading, task: &Task) -> Result<Vec<Attempt>> {
    let mut attempts: Vec<Attempt> = if task.attempt > 1 {
        let scan = Scan::of(reading, Kind::TaskAttempt, task.id).newest_first();
        let past = scan.records::<PastAttempt>(reading, SHOWN_ATTEMPTS - 1)?;
        past.into_iter().rev().map(|(_, past)| past.attempt).collect()
    } else {
        Vec::new()
    };
    attempts.extend(task.newest.clone());
    Ok(attempts)
}

/// All attempts of a task, oldest first. The newest stands in the task itself, and comes after those that are past.
pub fn attempts(reading: &dyn Reading, task: &Task, query: &PageQuery) -> Result<Page<Attempt>> {
    let scan = Scan::of(reading, Kind::TaskAttempt, task.id);
    let past = list::page(reading, scan, Via::Records, query, |_: &PastAttempt| true)?;
    let (mut items, mut next_cursor): (Vec<Attempt>, _) =
        (past.items.into_iter().map(|past| past.attempt).collect(), past.next_cursor);
    if let (None, Some(newest)) = (&next_cursor, &task.newest) {
        let limit = list::limit(query.limit, list::DEFAULT_LIMIT)?;
        match items.last().filter(|_| items.len() >= limit) {
            Some(last) => {
                let key = table::index_start(reading, Kind::TaskAttempt, (task.id, last.number));
                next_cursor = Some(list::cursor_at(Scan::position(&key), PastAttempt::NOUN));
            }
            None => items.push(newest.clone()),
        }
    }
    Ok(Page { items, next_cursor })
}
