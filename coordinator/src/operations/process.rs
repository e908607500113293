//! Processes.

use drover_protocol::{
    ProcessId, RobotGroupId,
    page::PageQuery,
    process::{NewProcess, ProcessDefaults, ProcessPatch, VersionState},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Caller,
    audit::{self, Act},
    event,
    list::{self, Page, Via},
    process_version, robot_group,
};
use crate::{
    domain::{
        name::{Faults, MAX_DESCRIPTION_CHARS},
        permission::Permission,
        process::{MAX_PARALLEL, MAX_SECONDS, Process},
        role::Limited,
    },
    error::{Error, Result},
    nearest::{nearest, unknown_name},
    pointer::pointer_of,
    store::{Reading, Scan, Topic, Tx, key::Kind, table},
};

const NOUN: &str = "process";
/// The largest default input, in bytes of JSON. A larger one belongs into the job or a file.
const MAX_DEFAULT_INPUT_BYTES: usize = 32 * 1024;
const MAX_PINS: usize = 200;
const DELETE_PAGE: usize = 500;

/// The process with this id or name, for paths.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<Process> {
    super::by_id_or_name(reading, Kind::ProcessByName, text)
}

/// The same for a field of a body.
pub fn find(reading: &dyn Reading, text: &str, pointer: &str) -> Result<Process> {
    resolve(reading, text).map_err(|error| match error {
        Error::NotFound(_) => Error::invalid(pointer, "there is no such process"),
        other => other,
    })
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Process> {
    caller.require(Permission::ProcessRead)?;
    resolve(reading, text)
}

pub fn list(reading: &dyn Reading, caller: &Caller, query: &PageQuery) -> Result<Page<Process>> {
    caller.require(Permission::ProcessRead)?;
    let scan = Scan::of(reading, Kind::Process, ()).newest_first();
    list::page(reading, scan, Via::Records, query, |_: &Process| true)
}

pub fn create(tx: &mut Tx, caller: &Caller, new: &NewProcess) -> Result<Process> {
    caller.require(Permission::ProcessCreate)?;
    let mut faults = Faults::default();
    faults.name("/name", &new.name);
    faults.text("/description", &new.description, MAX_DESCRIPTION_CHARS);
    check_defaults(&mut faults, &new.defaults);
    faults.check()?;
    let process = Process {
        id: ProcessId::from_uuid(tx.new_id()),
        name: new.name.clone(),
        description: new.description.clone(),
        active_version_id: None,
        defaults: new.defaults.clone(),
        group_pins: Default::default(),
        last_version_number: 0,
        created_at: tx.now(),
        revision: 1,
    };
    table::insert(tx, &process)?;
    event::note(tx, process.id.uuid(), "process_created", "the process was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, process.id, &process.name).after(&process))?;
    Ok(process)
}

fn check_defaults(faults: &mut Faults, defaults: &ProcessDefaults) {
    if let Some(priority) = defaults.priority {
        faults.range("/defaults/priority", u64::from(priority), 1, 3);
    }
    if let Some(seconds) = defaults.timeout_seconds {
        faults.range("/defaults/timeout_seconds", seconds, 1, MAX_SECONDS);
    }
    if let Some(seconds) = defaults.stop_grace_seconds {
        faults.range("/defaults/stop_grace_seconds", seconds, 0, MAX_SECONDS);
    }
    if let Some(parallel) = defaults.max_parallel {
        faults.range("/defaults/max_parallel", u64::from(parallel), 1, u64::from(MAX_PARALLEL));
    }
    if let Some(retry) = &defaults.retry {
        faults.range("/defaults/retry/max_attempts", u64::from(retry.max_attempts), 1, 100);
        faults.range("/defaults/retry/delay_seconds", retry.delay_seconds, 0, MAX_SECONDS);
        if retry.on.len() > 3 {
            faults.add("/defaults/retry/on", "names an outcome more than once");
        }
    }
    let bytes = defaults.input.as_ref().map_or(0, |input| serde_json::to_vec(input).map_or(0, |json| json.len()));
    if bytes > MAX_DEFAULT_INPUT_BYTES {
        faults.add("/defaults/input", format!("larger than {MAX_DEFAULT_INPUT_BYTES} bytes; use a file in a storage"));
    }
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &ProcessPatch,
    revision: Option<u64>,
) -> Result<Process> {
    caller.require(Permission::ProcessUpdate)?;
    let mut process = resolve(tx, text)?;
    table::check_revision(process.revision, revision)?;
    let before = process.clone();
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        faults.name("/name", name);
        process.name = name.clone();
    }
    if let Some(description) = &patch.description {
        faults.text("/description", description, MAX_DESCRIPTION_CHARS);
        process.description = description.clone();
    }
    if let Some(members) = &patch.defaults {
        process.defaults = patched(&process.defaults, members, "/defaults")?;
        check_defaults(&mut faults, &process.defaults);
    }
    faults.check()?;
    for (group, version) in patch.group_pins.iter().flatten() {
        pin(tx, caller, &mut process, group, version.as_deref())?;
    }
    table::update(tx, &mut process)?;
    // More of its jobs may run at once now.
    tx.wake(Topic::Group(robot_group::all(tx)?.id));
    event::note(tx, process.id.uuid(), "process_changed", "the process's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, process.id, &process.name).change(&before, &process))?;
    Ok(process)
}

/// A merge patch of a part of an object (RFC 7396): null removes, objects are merged, anything else replaces.
pub(super) fn patched<T: Serialize + DeserializeOwned>(
    part: &T,
    members: &serde_json::Map<String, serde_json::Value>,
    pointer: &str,
) -> Result<T> {
    let unexpected = |error: serde_json::Error| Error::Internal(format!("{pointer} cannot be patched: {error}"));
    let mut json = serde_json::to_value(part).map_err(unexpected)?;
    merge(&mut json, members);
    serde_path_to_error::deserialize(json).map_err(|error| {
        let message = error.inner().to_string();
        let detail = match unknown_name(&message).map(|name| nearest(name, &message)) {
            Some(Some(near)) => format!("there is no such field; did you mean {near}?"),
            Some(None) => "there is no such field".to_owned(),
            None => message,
        };
        Error::invalid(format!("{pointer}{}", pointer_of(error.path())), detail)
    })
}

fn merge(target: &mut serde_json::Value, members: &serde_json::Map<String, serde_json::Value>) {
    if !target.is_object() {
        *target = serde_json::Value::Object(serde_json::Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (name, value) in members {
        match value {
            serde_json::Value::Null => {
                object.remove(name);
            }
            serde_json::Value::Object(inner) => merge(object.entry(name).or_insert(serde_json::Value::Null), inner),
            plain => {
                object.insert(name.clone(), plain.clone());
            }
        }
    }
}

fn pin(tx: &mut Tx, caller: &Caller, process: &mut Process, group: &str, version: Option<&str>) -> Result<()> {
    let found = |tx: &Tx, pointer: &str| robot_group::find(tx, caller, Permission::ProcessUpdate, group, pointer);
    let pointer = format!("/group_pins/{}", group.replace('~', "~0").replace('/', "~1"));
    let Some(text) = version else {
        // The group may be gone; by its id it can still be unpinned.
        let id = match group.parse() {
            // One who is limited unpins only groups that are there, and within reach.
            Ok(id) if !caller.is_limited(Permission::ProcessUpdate, Limited::RobotGroups) => id,
            _ => found(tx, &pointer)?.id,
        };
        process.group_pins.remove(&id);
        return Ok(());
    };
    let group: RobotGroupId = found(tx, &pointer)?.id;
    let version = process_version::find(tx, process, text, &pointer)?;
    if version.state == VersionState::Archived {
        return Err(Error::invalid(pointer, format!("version {} is archived", version.number)));
    }
    process.group_pins.insert(group, version.id);
    if process.group_pins.len() > MAX_PINS {
        return Err(Error::invalid("/group_pins", format!("a process may have at most {MAX_PINS} pins")));
    }
    Ok(())
}

/// A process with jobs is kept; delete those first.
/// Deletes a process with its versions and events, a page at a time: call until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    caller.require(Permission::ProcessDelete)?;
    let process = resolve(tx, text)?;
    table::check_revision(process.revision, revision)?;
    if !Scan::of(tx, Kind::JobByProcess, process.id).pairs(tx, 1)?.is_empty() {
        return Err(Error::in_use("jobs of the process are kept; delete them first or wait for their retention"));
    }
    if !Scan::of(tx, Kind::TriggerByProcess, process.id).pairs(tx, 1)?.is_empty() {
        return Err(Error::in_use("a trigger starts jobs of the process; change or delete that first"));
    }
    if !event::delete_page(tx, process.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    let versions = process_version::some_of(tx, process.id, DELETE_PAGE)?;
    versions.iter().try_for_each(|version| process_version::remove(tx, version))?;
    if versions.len() == DELETE_PAGE {
        return Ok(false);
    }
    audit::append(tx, caller, Act::new("delete", NOUN, process.id, &process.name).before(&process))?;
    table::delete::<Process>(tx, process.id)?;
    Ok(true)
}

/// Jobs of the process that robots hold now, counted up to `limit`.
pub fn active_jobs(reading: &dyn Reading, process: ProcessId, limit: usize) -> Result<usize> {
    Ok(Scan::of(reading, Kind::JobActive, process).pairs(reading, limit)?.len())
}

/// Whether a further job of the process may run now.
pub fn may_run_more(reading: &dyn Reading, process: &Process) -> Result<bool> {
    match process.defaults.max_parallel {
        Some(most) => Ok(active_jobs(reading, process.id, most as usize)? < most as usize),
        None => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The example of RFC 7396, and that a member of the default input can be removed without naming the others.
    #[test]
    fn a_merge_patch_is_that_of_the_standard() {
        let mut document = json!({"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"},
            "tags": ["example", "sample"], "content": "This will be unchanged"});
        let patch = json!({"title": "Hello!", "phoneNumber": "+01-123-456-7890", "author": {"familyName": null},
            "tags": ["example"]});
        merge(&mut document, patch.as_object().expect("it is an object"));
        assert_eq!(
            document,
            json!({"title": "Hello!", "author": {"givenName": "John"}, "tags": ["example"],
                "content": "This will be unchanged", "phoneNumber": "+01-123-456-7890"})
        );
        let defaults: ProcessDefaults =
            serde_json::from_value(json!({"priority": 3, "input": {"a": 1, "b": 2}})).expect("these are defaults");
        let patch = json!({"priority": null, "input": {"b": null}, "retry": {"on": ["lost"]}});
        let members = patch.as_object().expect("it is an object");
        let patched = patched(&defaults, members, "/defaults").expect("it fits");
        assert_eq!((patched.priority, patched.input), (None, json!({"a": 1}).as_object().cloned()));
        assert_eq!(patched.retry.map(|retry| retry.max_attempts), Some(1));
    }
}
