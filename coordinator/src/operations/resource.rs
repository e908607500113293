//! Resources as people make and change them. Their values are in `resource_value.rs`.

use drover_protocol::{
    ResourceId, Timestamp,
    page::PageQuery,
    resource::{NewResource, ResourceFilter, ResourceKind, ResourcePatch},
};
use serde_json::Value;

use super::{
    Actor, Caller,
    audit::{self, Act},
    event,
    list::{self, Page, Via},
    resource_value, trigger,
};
use crate::{
    domain::{
        name::{Faults, MAX_DESCRIPTION_CHARS},
        permission::Permission,
        resource::{self, EXPIRING_DAYS, Resource, ResourceValue, Scope, TELL_BEFORE_SECONDS, Told},
        role::Limited,
    },
    error::{Error, Result},
    secrets::Secrets,
    store::{Reading, Scan, Tx, key::Kind, table},
};

const NOUN: &str = "resource";
const MISSING: Error = Error::NotFound(NOUN);
/// What is removed in one transaction when a resource is deleted.
const DELETE_PAGE: usize = 500;
const MAX_EXPIRING_DAYS: u64 = 3_650;

/// The resource with this id or name, for paths.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<Resource> {
    let found: Option<Resource> = match text.parse::<ResourceId>() {
        Ok(id) => table::find(reading, id)?,
        Err(_) => table::find_by(reading, Kind::ResourceByName, text)?,
    };
    found.filter(|resource| !resource.removed).ok_or(MISSING)
}

/// The same for what is out of the caller's reach as well: the key of a job learns nothing about resources that its version
/// does not declare, not even whether they exist.
pub fn within_reach(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Resource> {
    let is_id = text.parse::<ResourceId>().is_ok();
    if !is_id {
        caller.require_resource(text)?;
    }
    let resource = resolve(reading, text)?;
    match caller.require_resource(&resource.name) {
        Err(_) if is_id => Err(MISSING),
        checked => checked.map(|()| resource),
    }
}

/// A resource with its default value.
#[derive(Clone, Debug)]
pub struct WithDefault {
    pub resource: Resource,
    pub default: Option<ResourceValue>,
}

fn with_default(reading: &dyn Reading, resource: Resource) -> Result<WithDefault> {
    let default = resource_value::current(reading, resource.id, Scope::Default)?;
    Ok(WithDefault { resource, default })
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<WithDefault> {
    caller.require(Permission::ResourceRead)?;
    with_default(reading, resolve(reading, text)?)
}

/// What happened to a resource, newest first; of values only what happened to those that the caller reaches.
pub fn events(reading: &dyn Reading, caller: &Caller, text: &str, query: &PageQuery) -> Result<Page<event::Told>> {
    caller.require(Permission::ResourceRead)?;
    let resource = resolve(reading, text)?;
    let is_limited = caller.is_limited(Permission::ResourceRead, Limited::RobotGroups);
    event::list_some(reading, resource.id.uuid(), query, |event| match event.scope {
        Some(scope) => resource_value::reaches(reading, caller, scope) == Ok(true),
        None => !(is_limited && event.is_of_value()),
    })
}

/// Resources that fit the filter: newest first, or those that expire, the soonest first.
pub fn list(
    reading: &dyn Reading,
    caller: &Caller,
    filter: &ResourceFilter,
    query: &PageQuery,
) -> Result<Page<WithDefault>> {
    caller.require(Permission::ResourceRead)?;
    let part = filter.q.as_ref().map(|text| text.to_lowercase());
    let fits = |resource: &Resource| {
        !resource.removed
            && filter.kind.is_none_or(|kind| resource.kind == kind)
            && part.as_ref().is_none_or(|part| resource.name.to_lowercase().contains(part))
    };
    let page = match filter.expiring.as_deref().map(expiring_seconds).transpose()? {
        Some(seconds) => {
            let end = Timestamp::from_millis(reading.now().plus_seconds(seconds).millis().saturating_add(1));
            let end = table::index_start(reading, Kind::ResourceByExpiry, end);
            let scan = Scan::of(reading, Kind::ResourceByExpiry, ()).below(end);
            list::page(reading, scan, Via::Index, query, fits)?
        }
        None => list::page(reading, Scan::of(reading, Kind::Resource, ()).newest_first(), Via::Records, query, fits)?,
    };
    let items = page.items.into_iter().map(|resource| with_default(reading, resource)).collect::<Result<_>>()?;
    Ok(Page { items, next_cursor: page.next_cursor })
}

fn expiring_seconds(text: &str) -> Result<u64> {
    let days = match text {
        "true" => Some(EXPIRING_DAYS),
        days => days.parse().ok().filter(|days| *days <= MAX_EXPIRING_DAYS),
    };
    days.map(|days: u64| days * 86_400).ok_or_else(|| {
        Error::invalid("expiring", format!("must be true or a number of days up to {MAX_EXPIRING_DAYS}"))
    })
}

pub fn create(tx: &mut Tx, caller: &Caller, new: &NewResource, secrets: &Secrets) -> Result<WithDefault> {
    caller.require(Permission::ResourceCreate)?;
    let mut faults = Faults::default();
    faults.name("/name", &new.name);
    faults.text("/description", &new.description, MAX_DESCRIPTION_CHARS);
    faults.check()?;
    let value = match &new.value {
        // Null is a value of one kind only.
        None => None,
        Some(None) if new.kind != ResourceKind::Json => None,
        Some(given) => {
            let value = given.clone().unwrap_or(Value::Null);
            Some(resource::checked(new.kind, &value, "/value")?)
        }
    };
    let now = tx.now();
    let mut resource = Resource {
        id: ResourceId::from_uuid(tx.new_id()),
        name: new.name.clone(),
        description: new.description.clone(),
        kind: new.kind,
        writable_by_jobs: new.writable_by_jobs,
        expires_at: new.expires_at,
        last_version: 0,
        override_count: 0,
        told: Told::Nothing,
        removed: false,
        created_at: now,
        updated_at: now,
        updated_by: caller.name(),
        revision: 1,
    };
    table::insert(tx, &resource)?;
    let default = match value {
        Some(json) => Some(resource_value::first(tx, caller, &mut resource, &json, secrets)?),
        None => None,
    };
    event::note(tx, resource.id.uuid(), "resource_created", "the resource was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, resource.id, &resource.name).after(&resource))?;
    Ok(WithDefault { resource, default })
}

pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &ResourcePatch,
    revision: Option<u64>,
) -> Result<WithDefault> {
    caller.require(Permission::ResourceUpdate)?;
    let mut resource = resolve(tx, text)?;
    table::check_revision(resource.revision, revision)?;
    let before = resource.clone();
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        faults.name("/name", name);
        resource.name = name.clone();
    }
    if let Some(description) = &patch.description {
        faults.text("/description", description, MAX_DESCRIPTION_CHARS);
        resource.description = description.clone();
    }
    faults.check()?;
    resource.writable_by_jobs = patch.writable_by_jobs.unwrap_or(resource.writable_by_jobs);
    if let Some(expires_at) = patch.expires_at {
        resource.expires_at = expires_at;
        resource.told = Told::Nothing;
    }
    resource.updated_at = tx.now();
    resource.updated_by = caller.name();
    table::update(tx, &mut resource)?;
    if resource.kind == ResourceKind::Calendar && resource.name != before.name {
        trigger::calendar_renamed(tx, &before.name, &resource.name)?;
    }
    event::note(tx, resource.id.uuid(), "resource_changed", "the resource's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, resource.id, &resource.name).change(&before, &resource))?;
    with_default(tx, resource)
}

/// Deletes a resource: from then on nobody finds it. What it leaves is removed a page at a time by [`remove_page`].
pub fn delete(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<ResourceId> {
    caller.require(Permission::ResourceDelete)?;
    let mut resource = resolve(tx, text)?;
    table::check_revision(resource.revision, revision)?;
    if resource.kind == ResourceKind::Calendar {
        trigger::require_no_use_of_calendar(tx, &resource.name)?;
    }
    audit::append(tx, caller, Act::new("delete", NOUN, resource.id, &resource.name).before(&resource))?;
    resource.removed = true;
    table::update(tx, &mut resource)?;
    Ok(resource.id)
}

/// One page of removing what a deleted resource has left; `true` when nothing of it is left.
pub fn remove_page(tx: &mut Tx, id: ResourceId) -> Result<bool> {
    if table::find::<Resource>(tx, id)?.is_none_or(|resource| !resource.removed) {
        return Ok(true);
    }
    if !resource_value::remove_page(tx, id, DELETE_PAGE)? || !event::delete_page(tx, id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    table::delete::<Resource>(tx, id)?;
    Ok(true)
}

/// Looks after resources that were deleted or expire, a page after this position: tells by an event what expires. Gives
/// where to go on.
pub fn tend_page(tx: &mut Tx, after: Option<Vec<u8>>, limit: usize) -> Result<Option<Vec<u8>>> {
    let soon = tx.now().plus_seconds(TELL_BEFORE_SECONDS + 1);
    let end = table::index_start(tx, Kind::ResourceByExpiry, soon);
    let mut scan = Scan::of(tx, Kind::ResourceByExpiry, ()).below(end);
    if let Some(after) = after {
        scan = scan.after(&after);
    }
    let found = scan.indexed::<Resource>(tx, limit)?;
    let next = found.last().filter(|_| found.len() == limit).map(|(key, _)| key.clone());
    for (_, mut resource) in found {
        if resource.removed {
            // The rest of a large one is removed by the next pass.
            remove_page(tx, resource.id)?;
            continue;
        }
        let to_tell = resource.to_tell(tx.now());
        if to_tell == resource.told {
            continue;
        }
        let at = resource.expires_at.unwrap_or_default();
        let (code, text) = match to_tell {
            Told::Nothing => continue,
            Told::Expiring => ("resource_expiring", format!("{} expires at {at}", resource.name)),
            Told::Expired => ("resource_expired", format!("{} has expired at {at}", resource.name)),
        };
        resource.told = to_tell;
        table::rewrite(tx, &resource)?;
        event::note(tx, resource.id.uuid(), code, text, "coordinator")?;
    }
    Ok(next)
}

/// Refuses the keys of jobs, which reach values alone.
pub fn people_only(caller: &Caller) -> Result<()> {
    match caller.actor {
        Actor::Job { .. } => Err(Error::Forbidden("a job's key reads and sets the value alone".to_owned())),
        Actor::User { .. } | Actor::Robot { .. } => Ok(()),
    }
}
