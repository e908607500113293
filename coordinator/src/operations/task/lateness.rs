//! The index of tasks by their deadlines, brought into the form in which tasks with the same deadline lie by priority.

use drover_protocol::TaskId;
use uuid::Uuid;

use crate::{
    domain::task::Task,
    error::{Error, Result},
    store::{Scan, Tx, key::Kind, table},
};

/// Writes a page of entries of the older form anew; how many there were.
pub fn renew_page(tx: &mut Tx, limit: usize) -> Result<usize> {
    let old = Scan::of(tx, Kind::TaskByDeadline, ()).pairs(tx, limit)?;
    let count = old.len();
    for (key, id) in old {
        tx.delete(key);
        let id = Uuid::from_slice(&id).map_err(|_| Error::Internal("an index of tasks holds no id".to_owned()))?;
        if let Some(task) = table::find::<Task>(tx, TaskId::from_uuid(id))? {
            table::put_indexes(tx, &task)?;
        }
    }
    Ok(count)
}
