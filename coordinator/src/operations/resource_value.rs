//! Values of resources: which one counts for whom, setting and reading them, and what jobs are given of sealed ones.
//!
//! A sealed value can be opened only as the very version, of the very scope, resource and account that it was sealed as.
//! Each reading of one is an act of the audit trail in the same transaction.
//!
//! The key of a job reads sealed values as they were when its attempt was assigned: these are the ones that its agent was
//! given with the assignment, to mask them. A newer value counts from the next attempt on. So nothing that a job is told is
//! unknown to the agent through whose hands its output goes. What a job has set itself it reads back, for it signs in with
//! that from then on; its agent learns that with the next attempt, and until then the job is to keep it quiet.

use drover_protocol::{
    ResourceId, RobotId,
    page::PageQuery,
    resource::{Calendar, KEPT_VERSIONS, MAX_SHOWN_BYTES, ResourceKind, ValueFor},
};
use serde_json::{Value, json};

use super::{
    Actor, Caller,
    audit::{self, Act},
    event, key,
    list::{self, Page, Via},
    reach,
    resource::{people_only, resolve, within_reach},
    robot, robot_group, trigger,
};
use crate::{
    domain::{
        attempt::Attempt,
        audit::MASK,
        job::Target,
        permission::Permission,
        resource::{Handed, MAX_OVERRIDES, Resource, ResourceValue, Scope, checked, text_to_mask},
        robot::{Robot, RobotGroup},
    },
    error::{Error, Result},
    ical::Imported,
    secrets::Secrets,
    store::{
        Reading, Scan, Tx,
        document::{self, Slot},
        key::{KeyPart, Kind},
        table,
    },
};

const NOUN: &str = "resource";
/// Values of one robot or group that are removed together with it.
const MAX_OF_HOLDER: usize = 1_000;

/// The value that counts for a scope itself.
pub fn current(reading: &dyn Reading, resource: ResourceId, scope: Scope) -> Result<Option<ResourceValue>> {
    table::find_by(reading, Kind::ResourceValueCurrent, (resource, scope))
}

/// The value that a robot finds: its own, else that of the first of its groups by name (`all` comes last), else the default.
fn of_robot(reading: &dyn Reading, resource: &Resource, robot: &Robot) -> Result<Option<ResourceValue>> {
    if resource.override_count > 0 {
        if let Some(own) = current(reading, resource.id, Scope::Robot(robot.id))? {
            return Ok(Some(own));
        }
        let mut groups = robot_group::of_robot(reading, robot)?;
        groups.sort_by(|one, other| (one.is_all(), &one.name).cmp(&(other.is_all(), &other.name)));
        for group in groups {
            if let Some(value) = current(reading, resource.id, Scope::Group(group.id))? {
                return Ok(Some(value));
            }
        }
    }
    current(reading, resource.id, Scope::Default)
}

fn of_group(reading: &dyn Reading, resource: &Resource, group: &RobotGroup) -> Result<Option<ResourceValue>> {
    match current(reading, resource.id, Scope::Group(group.id))? {
        Some(value) => Ok(Some(value)),
        None => current(reading, resource.id, Scope::Default),
    }
}

/// The value that counts for a scope: its own, or the one that is found in place of it.
fn counting(reading: &dyn Reading, resource: &Resource, scope: Scope) -> Result<Option<ResourceValue>> {
    match scope {
        Scope::Default => current(reading, resource.id, scope),
        Scope::Group(id) => of_group(reading, resource, &table::get(reading, id)?),
        Scope::Robot(id) => of_robot(reading, resource, &table::get(reading, id)?),
    }
}

/// Name of the robot or group, as far as it is there.
pub fn scope_name(reading: &dyn Reading, scope: Scope) -> Result<Option<String>> {
    Ok(match scope {
        Scope::Default => None,
        Scope::Group(id) => table::find::<RobotGroup>(reading, id)?.map(|group| group.name),
        Scope::Robot(id) => table::find::<Robot>(reading, id)?.map(|robot| robot.name),
    })
}

/// A value that was found for somebody.
#[derive(Clone, Debug)]
pub struct Found {
    pub resource: Resource,
    pub value: ResourceValue,
    pub scope_name: Option<String>,
}

/// The value that counts for whom the caller asks, if the caller may read it.
pub fn find(reading: &dyn Reading, caller: &Caller, text: &str, whom: &ValueFor) -> Result<Found> {
    let may = match caller.permissions.contains(Permission::ResourceRead) {
        true => Permission::ResourceRead,
        false => Permission::ResourceReadValue,
    };
    caller.require(may)?;
    let resource = within_reach(reading, caller, text)?;
    if resource.kind.is_sealed() {
        caller.require(Permission::ResourceReadValue)?;
    }
    let value = match caller.actor {
        Actor::Job { robot, .. } => {
            require_own_robot(reading, robot, whom)?;
            match resource.kind.is_sealed() {
                true => Some(handed(reading, caller, &resource)?),
                false => of_robot(reading, &resource, &table::get(reading, robot)?)?,
            }
        }
        Actor::User { .. } | Actor::Robot { .. } => match (&whom.robot, &whom.group) {
            (Some(_), Some(_)) => return Err(Error::invalid("group", "name either a robot or a group")),
            (Some(text), None) => of_robot(reading, &resource, &robot::find(reading, caller, may, text, "robot")?)?,
            (None, Some(text)) => {
                of_group(reading, &resource, &robot_group::find(reading, caller, may, text, "group")?)?
            }
            (None, None) => current(reading, resource.id, Scope::Default)?,
        },
    };
    let value = value.ok_or(Error::NotFound("value: the resource has none that counts here"))?;
    let scope_name = scope_name(reading, value.scope)?;
    Ok(Found { resource, value, scope_name })
}

/// A job asks for its own robot, be it by name or by saying nothing.
fn require_own_robot(reading: &dyn Reading, own: RobotId, whom: &ValueFor) -> Result<()> {
    let is_own = |text: &String| robot::resolve(reading, text).is_ok_and(|robot| robot.id == own);
    if whom.group.is_some() || whom.robot.as_ref().is_some_and(|text| !is_own(text)) {
        return Err(Error::Forbidden("a job's key reaches the values of its own robot only".to_owned()));
    }
    Ok(())
}

/// Which version of a sealed value the job's attempt was given.
fn given(reading: &dyn Reading, caller: &Caller, resource: &Resource) -> Result<Option<Handed>> {
    let Actor::Job { job, attempt, .. } = caller.actor else { return Err(Error::NotFound(NOUN)) };
    let attempt: Attempt = table::get(reading, (job, attempt))?;
    Ok(attempt.handed.into_iter().find(|given| given.resource_id == resource.id))
}

/// The version that the job's attempt was given.
fn handed(reading: &dyn Reading, caller: &Caller, resource: &Resource) -> Result<ResourceValue> {
    let value: Option<ResourceValue> = match given(reading, caller, resource)? {
        Some(given) => table::find(reading, (given.resource_id, given.number))?,
        None => None,
    };
    value.ok_or_else(|| {
        Error::wrong_state(
            "the value was set or removed, or has changed too often, since the job was assigned to its robot; the next \
             attempt or job is given the one that counts",
        )
    })
}

/// Opens a sealed value, and writes down who has read it.
pub fn read_sealed(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    whom: &ValueFor,
    secrets: &Secrets,
) -> Result<(Found, Vec<u8>)> {
    let found = find(tx, caller, text, whom)?;
    let json = content(tx, &found.value, secrets)?;
    let act = Act::new("read_value", NOUN, found.resource.id, &found.resource.name);
    audit::append(tx, caller, act.after(told(&found.value, found.scope_name.as_deref(), None)))?;
    Ok((found, json))
}

/// What the audit trail says of a value.
fn told(value: &ResourceValue, scope_name: Option<&str>, content: Option<Value>) -> Value {
    let mut told = json!({ "scope": value.scope.word(), "scope_name": scope_name, "version": value.number });
    if let Some(content) = content {
        told["value"] = content;
    }
    told
}

/// The value as JSON.
pub fn content(reading: &dyn Reading, value: &ResourceValue, secrets: &Secrets) -> Result<Vec<u8>> {
    let kept = kept(reading, value)?;
    match value.sealed {
        true => secrets.open_sealed(&context(reading, value), &kept),
        false => Ok(kept),
    }
}

/// The value as it is kept: sealed, if its kind is.
pub fn kept(reading: &dyn Reading, value: &ResourceValue) -> Result<Vec<u8>> {
    match &value.content {
        Some(content) => Ok(content.clone()),
        None => document::get(reading, value.id, Slot::Value)?
            .ok_or_else(|| Error::Internal("the content of a value is missing".to_owned())),
    }
}

/// What a value is sealed as. It cannot be opened as anything else.
pub fn context(reading: &dyn Reading, value: &ResourceValue) -> Vec<u8> {
    let mut context = b"value of a resource".to_vec();
    context.extend_from_slice(reading.account().uuid().as_bytes());
    (value.resource_id, value.number).append(&mut context);
    value.scope.append(&mut context);
    context
}

/// Puts the content of a value into its record, or apart from it if it is large.
pub fn put_content(tx: &mut Tx, value: &mut ResourceValue, kept: Vec<u8>) -> Result<()> {
    document::delete(tx, value.id, Slot::Value)?;
    if kept.len() <= 2 * MAX_SHOWN_BYTES {
        value.content = Some(kept);
        return Ok(());
    }
    value.content = None;
    document::insert(tx, value.id, Slot::Value, &kept)
}

/// The default value of a resource that is being made.
pub fn first(
    tx: &mut Tx,
    caller: &Caller,
    resource: &mut Resource,
    json: &[u8],
    secrets: &Secrets,
) -> Result<ResourceValue> {
    let value = add(tx, caller, resource, Scope::Default, json, secrets)?;
    table::rewrite(tx, resource)?;
    Ok(value)
}

/// Writes a new version, which counts from now on. The resource is changed, but not yet written.
fn add(
    tx: &mut Tx,
    caller: &Caller,
    resource: &mut Resource,
    scope: Scope,
    json: &[u8],
    secrets: &Secrets,
) -> Result<ResourceValue> {
    match current(tx, resource.id, scope)? {
        Some(mut old) => {
            old.current = false;
            table::rewrite(tx, &old)?;
        }
        None if scope != Scope::Default && resource.override_count >= MAX_OVERRIDES => {
            let text = format!("{MAX_OVERRIDES} robots and groups have a value of their own already; use groups");
            return Err(Error::wrong_state(text));
        }
        None if scope != Scope::Default => resource.override_count += 1,
        None => {}
    }
    resource.last_version += 1;
    resource.updated_at = tx.now();
    resource.updated_by = caller.name();
    let mut value = ResourceValue {
        resource_id: resource.id,
        number: resource.last_version,
        id: tx.new_id(),
        scope,
        current: true,
        size_bytes: json.len() as u64,
        content: None,
        sealed: resource.kind.is_sealed(),
        at: tx.now(),
        by: caller.name(),
    };
    let kept = match value.sealed {
        true => secrets.seal(&context(tx, &value), json, tx.random())?,
        false => json.to_vec(),
    };
    put_content(tx, &mut value, kept)?;
    table::insert(tx, &value)?;
    if resource.kind == ResourceKind::Calendar && scope == Scope::Default {
        trigger::calendar_changed(tx, &resource.name)?;
    }
    forget_old(tx, resource.id, scope)?;
    Ok(value)
}

/// Keeps the newest versions only.
fn forget_old(tx: &mut Tx, resource: ResourceId, scope: Scope) -> Result<()> {
    let scan = Scan::of(tx, Kind::ResourceValueByScope, (resource, scope));
    let versions = scan.indexed::<ResourceValue>(tx, 2 * KEPT_VERSIONS)?;
    let too_many = versions.len().saturating_sub(KEPT_VERSIONS);
    for (_, old) in versions.into_iter().take(too_many) {
        remove(tx, &old)?;
    }
    Ok(())
}

fn remove(tx: &mut Tx, value: &ResourceValue) -> Result<()> {
    document::delete(tx, value.id, Slot::Value)?;
    table::delete::<ResourceValue>(tx, (value.resource_id, value.number))
}

/// One page of removing the values of a deleted resource; `true` when none is left.
pub fn remove_page(tx: &mut Tx, resource: ResourceId, limit: usize) -> Result<bool> {
    let values = Scan::of(tx, Kind::ResourceValue, resource).records::<ResourceValue>(tx, limit)?;
    let ended = values.len() < limit;
    for (_, value) in values {
        remove(tx, &value)?;
    }
    Ok(ended)
}

/// A value as it is given.
pub enum Given {
    Value(Value),
    /// What a file of iCalendar says.
    Calendar(Imported),
}

/// The calendar that counts for a scope with what a file says; the rest of it stays. A robot or group without one of its own
/// goes by another one until then, whose rest days hold for it.
fn merged(
    reading: &dyn Reading,
    resource: &Resource,
    scope: Scope,
    imported: &Imported,
    secrets: &Secrets,
) -> Result<Vec<u8>> {
    if resource.kind != ResourceKind::Calendar {
        return Err(Error::invalid("", "only a resource of the kind calendar is set from an iCalendar file"));
    }
    let unreadable = |error| Error::Internal(format!("a calendar cannot be read: {error}"));
    let before = match counting(reading, resource, scope)? {
        Some(counts) => serde_json::from_slice(&content(reading, &counts, secrets)?).map_err(unreadable)?,
        None => Calendar::default(),
    };
    let calendar = serde_json::to_value(imported.clone().onto(before)).map_err(unreadable)?;
    checked(resource.kind, &calendar, "/value")
}

/// Sets the value for whom the caller says.
pub fn set(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    whom: &ValueFor,
    new: &Given,
    revision: Option<u64>,
    secrets: &Secrets,
) -> Result<Found> {
    // A value may be long, and its sender slow.
    let caller = &key::renewed(tx, caller)?;
    caller.require(Permission::ResourceWriteValue)?;
    let mut resource = within_reach(tx, caller, text)?;
    table::check_revision(resource.revision, revision)?;
    let scope = match (caller.actor.clone(), &whom.robot, &whom.group) {
        (_, Some(_), Some(_)) => return Err(Error::invalid("group", "name either a robot or a group")),
        (Actor::Job { robot, .. }, ..) => scope_of_job(tx, caller, &resource, robot, whom)?,
        (_, Some(text), None) => {
            Scope::Robot(robot::find(tx, caller, Permission::ResourceWriteValue, text, "robot")?.id)
        }
        (_, None, Some(text)) => {
            Scope::Group(robot_group::find(tx, caller, Permission::ResourceWriteValue, text, "group")?.id)
        }
        (_, None, None) => Scope::Default,
    };
    write(tx, caller, &mut resource, scope, new, secrets)
}

/// A job sets the value that it reads, or that of its own robot if it says so. Of a sealed value that is the one that it
/// was given: its robot may be in other groups by now, whose login is another one.
fn scope_of_job(
    reading: &dyn Reading,
    caller: &Caller,
    resource: &Resource,
    robot: RobotId,
    whom: &ValueFor,
) -> Result<Scope> {
    require_own_robot(reading, robot, whom)?;
    if !resource.writable_by_jobs {
        let text = format!("jobs may not set the value of {:?}: its writable_by_jobs is false", resource.name);
        return Err(Error::Forbidden(text));
    }
    if whom.robot.is_some() {
        return Ok(Scope::Robot(robot));
    }
    let counts = of_robot(reading, resource, &table::get(reading, robot)?)?;
    // Where there was no value and is none, the job sets the first.
    if resource.kind.is_sealed() && (counts.is_some() || given(reading, caller, resource)?.is_some()) {
        return Ok(handed(reading, caller, resource)?.scope);
    }
    Ok(counts.map_or(Scope::Default, |value| value.scope))
}

/// Sets the value of a robot or a group, as `overrides/{robot|group}/{name}` names it.
pub fn set_override(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    of: (&str, &str),
    new: &Given,
    revision: Option<u64>,
    secrets: &Secrets,
) -> Result<Found> {
    let caller = &key::renewed(tx, caller)?;
    caller.require(Permission::ResourceWriteValue)?;
    people_only(caller)?;
    let mut resource = resolve(tx, text)?;
    table::check_revision(resource.revision, revision)?;
    let scope = scope_in_path(tx, caller, Permission::ResourceWriteValue, of)?;
    write(tx, caller, &mut resource, scope, new, secrets)
}

fn scope_in_path(
    reading: &dyn Reading,
    caller: &Caller,
    permission: Permission,
    (kind, name): (&str, &str),
) -> Result<Scope> {
    match kind {
        "robot" => Ok(Scope::Robot(robot::reached(reading, caller, permission, name)?.id)),
        "group" => Ok(Scope::Group(robot_group::reached(reading, caller, permission, name)?.id)),
        _ => Err(Error::NotFound("kind of overrides; it is robot or group")),
    }
}

fn write(
    tx: &mut Tx,
    caller: &Caller,
    resource: &mut Resource,
    scope: Scope,
    given: &Given,
    secrets: &Secrets,
) -> Result<Found> {
    let old = current(tx, resource.id, scope)?;
    let json = match given {
        Given::Value(value) => checked(resource.kind, value, "/value")?,
        Given::Calendar(imported) => merged(tx, resource, scope, imported, secrets)?,
    };
    let scope_name = scope_name(tx, scope)?;
    // The same again is no new version. Of sealed values this would tell whoever may not read them that a guess is right.
    if let Some(old) = &old
        && !old.sealed
        && content(tx, old, secrets)? == json
    {
        return Ok(Found { resource: resource.clone(), value: old.clone(), scope_name });
    }
    let value = add(tx, caller, resource, scope, &json, secrets)?;
    table::update(tx, resource)?;
    let of = scope_name.as_ref().map_or("the default value".to_owned(), |name| format!("the value for {name}"));
    let text = format!("version {}: {of} was set", value.number);
    event::note_of_value(tx, (resource.id, scope), "value_set", text, caller.by())?;
    let shown = |value: &ResourceValue| if value.sealed { Some(Value::from(MASK)) } else { value.shown() };
    let mut act = Act::new("set_value", NOUN, resource.id, &resource.name).after(told(
        &value,
        scope_name.as_deref(),
        shown(&value),
    ));
    if let Some(old) = &old {
        act = act.before(told(old, scope_name.as_deref(), shown(old)));
    }
    audit::append(tx, caller, act)?;
    if let (Actor::Job { job, attempt, .. }, true) = (&caller.actor, value.sealed) {
        // The job reads what it has set itself.
        let mut attempt: Attempt = table::get(tx, (*job, *attempt))?;
        attempt.handed.retain(|given| given.resource_id != resource.id);
        attempt.handed.push(Handed { resource_id: resource.id, number: value.number });
        table::update(tx, &mut attempt)?;
    }
    Ok(Found { resource: resource.clone(), value, scope_name })
}

/// Removes the value of a robot or group with all its versions; nothing happens if it has none.
pub fn remove_override(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    of: (&str, &str),
    revision: Option<u64>,
) -> Result<()> {
    caller.require(Permission::ResourceWriteValue)?;
    people_only(caller)?;
    let mut resource = resolve(tx, text)?;
    table::check_revision(resource.revision, revision)?;
    let scope = scope_in_path(tx, caller, Permission::ResourceWriteValue, of)?;
    let Some(old) = current(tx, resource.id, scope)? else { return Ok(()) };
    let name = scope_name(tx, scope)?.unwrap_or_default();
    for (_, version) in
        Scan::of(tx, Kind::ResourceValueByScope, (resource.id, scope)).indexed::<ResourceValue>(tx, MAX_OF_HOLDER)?
    {
        remove(tx, &version)?;
    }
    resource.override_count = resource.override_count.saturating_sub(1);
    resource.updated_at = tx.now();
    resource.updated_by = caller.name();
    table::update(tx, &mut resource)?;
    let text = format!("the value for {name} was removed");
    event::note_of_value(tx, (resource.id, scope), "value_removed", text, caller.by())?;
    let act = Act::new("remove_value", NOUN, resource.id, &resource.name);
    audit::append(tx, caller, act.before(told(&old, Some(&name), None)))
}

/// Removes all values of a robot or group that is being deleted.
pub fn forget_holder(tx: &mut Tx, scope: Scope) -> Result<()> {
    let scan = Scan::of(tx, Kind::ResourceValueByHolder, scope);
    let found = scan.indexed::<ResourceValue>(tx, MAX_OF_HOLDER + 1)?;
    if found.len() > MAX_OF_HOLDER {
        return Err(Error::in_use("it has more than 1000 versions of values of resources; remove its overrides first"));
    }
    for (_, value) in found {
        remove(tx, &value)?;
        if value.current
            && let Some(mut resource) = table::find::<Resource>(tx, value.resource_id)?
        {
            resource.override_count = resource.override_count.saturating_sub(1);
            table::update(tx, &mut resource)?;
        }
    }
    Ok(())
}

/// A value of a robot or group, with its name.
pub type Override = (ResourceValue, String);

/// Whether the caller reaches whom a value is for. The default is for everybody.
pub fn reaches(reading: &dyn Reading, caller: &Caller, scope: Scope) -> Result<bool> {
    let target = match scope {
        Scope::Default => return Ok(true),
        Scope::Group(id) => Target::Group(id),
        Scope::Robot(id) => Target::Robot(id),
    };
    reach::reaches_target(reading, caller, Permission::ResourceRead, target)
}

/// The values of the robots and groups that the caller reaches, by name, groups first.
pub fn overrides(reading: &dyn Reading, caller: &Caller, resource: ResourceId) -> Result<Vec<Override>> {
    let scan = Scan::of(reading, Kind::ResourceValueCurrent, resource);
    let mut found = Vec::new();
    for (_, value) in scan.indexed::<ResourceValue>(reading, MAX_OVERRIDES as usize + 1)? {
        if value.scope != Scope::Default && reaches(reading, caller, value.scope)? {
            let name = scope_name(reading, value.scope)?.unwrap_or_default();
            found.push((value, name));
        }
    }
    found.sort_by(|(one, one_name), (other, other_name)| {
        (one.scope.word(), one_name).cmp(&(other.scope.word(), other_name))
    });
    Ok(found)
}

/// Versions that are kept, newest first, of the values that the caller reaches; of one value if the caller says for whom.
pub fn versions(
    reading: &dyn Reading,
    caller: &Caller,
    text: &str,
    whom: &ValueFor,
    query: &PageQuery,
) -> Result<Page<(ResourceValue, Option<String>)>> {
    caller.require(Permission::ResourceRead)?;
    let resource = resolve(reading, text)?;
    let scope = match (&whom.robot, &whom.group) {
        (Some(_), Some(_)) => return Err(Error::invalid("group", "name either a robot or a group")),
        (Some(text), None) => {
            Some(Scope::Robot(robot::find(reading, caller, Permission::ResourceRead, text, "robot")?.id))
        }
        (None, Some(text)) => {
            Some(Scope::Group(robot_group::find(reading, caller, Permission::ResourceRead, text, "group")?.id))
        }
        (None, None) => None,
    };
    let (scan, via) = match scope {
        Some(scope) => (Scan::of(reading, Kind::ResourceValueByScope, (resource.id, scope)), Via::Index),
        None => (Scan::of(reading, Kind::ResourceValue, resource.id), Via::Records),
    };
    let reached = |value: &ResourceValue| reaches(reading, caller, value.scope) == Ok(true);
    let page = list::page(reading, scan.newest_first(), via, query, reached)?;
    let named = |value: ResourceValue| scope_name(reading, value.scope).map(|name| (value, name));
    let items = page.items.into_iter().map(named).collect::<Result<_>>()?;
    Ok(Page { items, next_cursor: page.next_cursor })
}

/// The sealed values that an attempt of a job with this manifest is given on this robot; the handing out is an act.
pub fn hand_out(reading: &dyn Reading, declared: &[String], robot: &Robot) -> Result<Vec<(Handed, Resource)>> {
    let mut given: Vec<(Handed, Resource)> = Vec::new();
    for name in declared {
        let Some(resource) = table::find_by::<Resource>(reading, Kind::ResourceByName, name.as_str())? else {
            continue;
        };
        let new = resource.kind.is_sealed() && !given.iter().any(|(_, known)| known.id == resource.id);
        if new && let Some(value) = of_robot(reading, &resource, robot)? {
            given.push((Handed { resource_id: resource.id, number: value.number }, resource));
        }
    }
    Ok(given)
}

/// The texts to mask of all that an attempt was given.
pub fn texts_of(reading: &dyn Reading, handed: &[Handed], secrets: &Secrets) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for given in handed {
        let Some(value) = table::find::<ResourceValue>(reading, (given.resource_id, given.number))? else { continue };
        match content(reading, &value, secrets) {
            Ok(json) => texts.extend(text_to_mask(&json)),
            // The job cannot open it either; that must not keep the robot from its work.
            Err(error) => tracing::error!(%error, resource = %given.resource_id, "a sealed value cannot be opened"),
        }
    }
    Ok(texts)
}
