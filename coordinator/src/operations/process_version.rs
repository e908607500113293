//! Process versions. Their packages are checked and kept before they come here.

use drover_protocol::{
    ProcessId, ProcessVersionId,
    manifest::Manifest,
    news::NewsType,
    page::PageQuery,
    process::{UploadQuery, VersionPatch, VersionState},
};

use super::{
    Caller,
    audit::{self, Act},
    event, garbage, key,
    list::{self, Page, Via},
    news::{self, Facts},
    process,
};
use crate::{
    domain::{
        job::Target,
        name::{Faults, MAX_DESCRIPTION_CHARS, MAX_NAME_CHARS},
        news::Subject,
        permission::Permission,
        process::{Needs, Process, ProcessVersion},
    },
    error::{Error, Result},
    store::{
        Reading, Scan, Tx,
        blob::BlobName,
        document::{self, Slot},
        key::Kind,
        table,
    },
};

const NOUN: &str = "version";
/// Most versions of one process.
const MAX_VERSIONS: usize = 10_000;

/// A package that was received, validated and kept.
#[derive(Clone, Debug)]
pub struct Package {
    pub sha256: String,
    pub size_bytes: u64,
    pub manifest: Manifest,
}

/// The version that a text means: an id, a number, `active`, or a label.
pub fn resolve(reading: &dyn Reading, process: &Process, text: &str) -> Result<ProcessVersion> {
    const MISSING: Error = Error::NotFound("process version");
    if text == "active" {
        let id = process.active_version_id.ok_or(MISSING)?;
        return table::get(reading, id);
    }
    if let Ok(id) = text.parse::<ProcessVersionId>() {
        let version = table::get::<ProcessVersion>(reading, id)?;
        return if version.process_id == process.id { Ok(version) } else { Err(MISSING) };
    }
    if let Ok(number) = text.parse::<u32>() {
        let index = Kind::ProcessVersionByNumber;
        return table::find_by(reading, index, (process.id, number))?.ok_or(MISSING);
    }
    let labelled = all_of(reading, process.id)?.into_iter().rev();
    labelled.into_iter().find(|version| version.label.as_deref() == Some(text)).ok_or(MISSING)
}

/// The same for a field of a body.
pub fn find(reading: &dyn Reading, process: &Process, text: &str, pointer: &str) -> Result<ProcessVersion> {
    resolve(reading, process, text).map_err(|error| match error {
        Error::NotFound(_) => Error::invalid(pointer, "the process has no such version"),
        other => other,
    })
}

/// The version that a new job runs: the one named, else the one pinned for its group, else the active one.
pub fn for_job(
    reading: &dyn Reading,
    process: &Process,
    wanted: Option<&str>,
    target: Target,
) -> Result<ProcessVersion> {
    let pinned = match target {
        Target::Group(group) => process.group_pins.get(&group).copied(),
        Target::Robot(_) => None,
    };
    let version: ProcessVersion = match (wanted, pinned.or(process.active_version_id)) {
        (Some(text), _) => find(reading, process, text, "/version")?,
        (None, Some(id)) => table::get(reading, id)?,
        (None, None) => {
            return Err(Error::wrong_state(format!(
                "the process {} has no active version; publish one or activate one",
                process.name
            )));
        }
    };
    if version.state == VersionState::Archived {
        return Err(Error::wrong_state(format!("version {} is archived", version.number)));
    }
    Ok(version)
}

/// All versions of a process, oldest first.
pub fn all_of(reading: &dyn Reading, process: ProcessId) -> Result<Vec<ProcessVersion>> {
    some_of(reading, process, MAX_VERSIONS)
}

/// The oldest versions of a process.
pub fn some_of(reading: &dyn Reading, process: ProcessId, limit: usize) -> Result<Vec<ProcessVersion>> {
    let scan = Scan::of(reading, Kind::ProcessVersionByNumber, process);
    Ok(scan.indexed(reading, limit)?.into_iter().map(|(_, version)| version).collect())
}

pub fn list(
    reading: &dyn Reading,
    caller: &Caller,
    process: &str,
    query: &PageQuery,
) -> Result<(Process, Page<ProcessVersion>)> {
    caller.require(Permission::VersionRead)?;
    let process = process::resolve(reading, process)?;
    let scan = Scan::of(reading, Kind::ProcessVersionByNumber, process.id).newest_first();
    let page = list::page(reading, scan, Via::Index, query, |_: &ProcessVersion| true)?;
    Ok((process, page))
}

pub fn get(reading: &dyn Reading, caller: &Caller, process: &str, version: &str) -> Result<(Process, ProcessVersion)> {
    caller.require(Permission::VersionRead)?;
    let process = process::resolve(reading, process)?;
    let version = resolve(reading, &process, version)?;
    Ok((process, version))
}

/// The manifest of a version.
pub fn manifest(reading: &dyn Reading, version: ProcessVersionId) -> Result<Manifest> {
    let bytes = document::get(reading, version.uuid(), Slot::Manifest)?
        .ok_or_else(|| Error::Internal("a version has no manifest".to_owned()))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Internal(format!("a manifest cannot be read: {error}")))
}

/// Checks what an upload says about itself, before its body is read.
pub fn check_upload(reading: &dyn Reading, caller: &Caller, process: &str, query: &UploadQuery) -> Result<()> {
    caller.require(Permission::VersionCreate)?;
    if query.activate == Some(true) {
        caller.require(Permission::VersionActivate)?;
    }
    let process = process::resolve(reading, process)?;
    check_texts(reading, &process, None, query.label.as_deref(), query.notes.as_deref())
}

/// A label must be free and must not read as anything else that names a version.
fn check_texts(
    reading: &dyn Reading,
    process: &Process,
    own: Option<ProcessVersionId>,
    label: Option<&str>,
    notes: Option<&str>,
) -> Result<()> {
    let mut faults = Faults::default();
    if let Some(label) = label {
        faults.text("label", label, MAX_NAME_CHARS);
        let number_or_id = label.parse::<u32>().is_ok() || uuid::Uuid::try_parse(label).is_ok();
        if label.is_empty() || label == "active" || number_or_id {
            faults.add("label", "must not be empty, a number, an id or the word active");
        }
    }
    if let Some(notes) = notes {
        faults.text("notes", notes, MAX_DESCRIPTION_CHARS);
    }
    faults.check()?;
    match label.map(|label| resolve(reading, process, label)) {
        Some(Ok(holder)) if Some(holder.id) != own => {
            let what = format!("a version with the label {}", label.unwrap_or_default());
            Err(Error::AlreadyExists { what, id: holder.id.to_string() })
        }
        _ => Ok(()),
    }
}

/// Adds a version whose package is kept already.
pub fn create(
    tx: &mut Tx,
    caller: &Caller,
    process: &str,
    query: &UploadQuery,
    package: &Package,
) -> Result<(Process, ProcessVersion)> {
    // The package has taken its time to come.
    let caller = &key::renewed(tx, caller)?;
    check_upload(tx, caller, process, query)?;
    let mut process = process::resolve(tx, process)?;
    if Scan::of(tx, Kind::ProcessVersionByNumber, process.id).pairs(tx, MAX_VERSIONS)?.len() >= MAX_VERSIONS {
        return Err(Error::wrong_state("the process has 10000 versions; delete some first"));
    }
    process.last_version_number += 1;
    let version = ProcessVersion {
        id: ProcessVersionId::from_uuid(tx.new_id()),
        process_id: process.id,
        number: process.last_version_number,
        label: query.label.clone(),
        notes: query.notes.clone().unwrap_or_default(),
        sha256: package.sha256.clone(),
        size_bytes: package.size_bytes,
        needs: Needs::of(&package.manifest),
        resources: package.manifest.requires.resources.clone(),
        timeout_seconds: package.manifest.run.timeout_seconds,
        stop_grace_seconds: package.manifest.run.stop_grace_seconds,
        uploaded_by: caller.name(),
        created_at: tx.now(),
        state: VersionState::Available,
        revision: 1,
    };
    let manifest = serde_json::to_vec(&package.manifest)
        .map_err(|error| Error::Internal(format!("a manifest cannot be written: {error}")))?;
    document::insert(tx, version.id.uuid(), Slot::Manifest, &manifest)?;
    table::insert(tx, &version)?;
    garbage::keep(tx, &BlobName::package(&version.sha256)?.to_string())?;
    let text = format!("version {} was uploaded", version.number);
    event::note(tx, process.id.uuid(), "version_created", text, caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, version.id, &called(&process, &version)).after(&version))?;
    if query.activate == Some(true) {
        make_active(tx, caller, &mut process, &version)?;
    } else {
        table::update(tx, &mut process)?;
    }
    Ok((process, version))
}

/// How people call a version.
fn called(process: &Process, version: &ProcessVersion) -> String {
    format!("{} {}", process.name, version.number)
}

fn make_active(tx: &mut Tx, caller: &Caller, process: &mut Process, version: &ProcessVersion) -> Result<()> {
    let before = process.active_version_id;
    process.active_version_id = Some(version.id);
    table::update(tx, process)?;
    let text = format!("version {} is the active one now", version.number);
    event::note(tx, process.id.uuid(), "version_activated", text, caller.by())?;
    news::tell(tx, NewsType::VersionActivated, |_| {
        let data = serde_json::json!({
            "process_id": process.id, "process": process.name, "number": version.number, "label": version.label,
            "previous_version_id": before, "activated_by": caller.by(),
        });
        Ok(Facts { subject: Subject::new("version", version.id.uuid(), Some(&called(process, version))), data })
    })?;
    let name = called(process, version);
    let act = Act::new("activate", NOUN, version.id, &name);
    let active = |id| serde_json::json!({ "active_version_id": id });
    audit::append(tx, caller, act.before(active(before)).after(active(Some(version.id))))
}

/// Makes it the version that new jobs run. Activating an older one is the roll-back.
pub fn activate(tx: &mut Tx, caller: &Caller, process: &str, version: &str) -> Result<(Process, ProcessVersion)> {
    caller.require(Permission::VersionActivate)?;
    let mut process = process::resolve(tx, process)?;
    let version = resolve(tx, &process, version)?;
    if version.state == VersionState::Archived {
        return Err(Error::wrong_state(format!("version {} is archived; make it available first", version.number)));
    }
    if process.active_version_id != Some(version.id) {
        make_active(tx, caller, &mut process, &version)?;
    }
    Ok((process, version))
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    process: &str,
    version: &str,
    patch: &VersionPatch,
    revision: Option<u64>,
) -> Result<(Process, ProcessVersion)> {
    caller.require(Permission::VersionUpdate)?;
    let process = process::resolve(tx, process)?;
    let mut version = resolve(tx, &process, version)?;
    table::check_revision(version.revision, revision)?;
    let before = version.clone();
    let label = patch.label.as_ref().and_then(Option::as_deref);
    check_texts(tx, &process, Some(version.id), label, patch.notes.as_deref())?;
    version.label = patch.label.clone().unwrap_or(version.label);
    version.notes = patch.notes.clone().unwrap_or(version.notes);
    if let Some(state) = patch.state {
        if state == VersionState::Archived && process.active_version_id == Some(version.id) {
            return Err(Error::in_use("the active version cannot be archived; activate another one first"));
        }
        if state == VersionState::Archived && process.group_pins.values().any(|pinned| *pinned == version.id) {
            return Err(Error::in_use("a group is pinned to it; unpin it first"));
        }
        version.state = state;
    }
    table::update(tx, &mut version)?;
    let text = format!("version {} was changed", version.number);
    event::note(tx, process.id.uuid(), "version_changed", text, caller.by())?;
    let name = called(&process, &version);
    audit::append(tx, caller, Act::new("update", NOUN, version.id, &name).change(&before, &version))?;
    Ok((process, version))
}

/// A version that any job, pin or activation refers to cannot be deleted.
pub fn delete(tx: &mut Tx, caller: &Caller, process: &str, version: &str, revision: Option<u64>) -> Result<()> {
    caller.require(Permission::VersionDelete)?;
    let process = process::resolve(tx, process)?;
    let version = resolve(tx, &process, version)?;
    table::check_revision(version.revision, revision)?;
    if process.active_version_id == Some(version.id) {
        return Err(Error::in_use("it is the active version; activate another one first"));
    }
    if process.group_pins.values().any(|pinned| *pinned == version.id) {
        return Err(Error::in_use("a group is pinned to it; unpin it first"));
    }
    if !Scan::of(tx, Kind::JobByVersion, version.id).pairs(tx, 1)?.is_empty() {
        return Err(Error::in_use("jobs of this version are kept; archive it instead"));
    }
    remove(tx, &version)?;
    let text = format!("version {} was deleted", version.number);
    event::note(tx, process.id.uuid(), "version_deleted", text, caller.by())?;
    audit::append(tx, caller, Act::new("delete", NOUN, version.id, &called(&process, &version)).before(&version))
}

/// Removes a version that nothing refers to, and its package if no other version has the same.
pub fn remove(tx: &mut Tx, version: &ProcessVersion) -> Result<()> {
    document::delete(tx, version.id.uuid(), Slot::Manifest)?;
    table::delete::<ProcessVersion>(tx, version.id)?;
    garbage::discard_package(tx, &version.sha256)
}
