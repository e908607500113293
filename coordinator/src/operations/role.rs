//! Roles: the built-in ones, those that people make, and what they come to for a user.
//!
//! Nobody gives what they do not have, nor touches a role that holds more than they do.

use drover_protocol::{
    RoleId,
    page::PageQuery,
    role::{NewRole, RoleLimits, RoleLimitsPatch, RolePatch},
};

use super::{
    Caller, Reach, account,
    audit::{self, Act},
    event,
    list::{Page, cursor_at, limit, position_of},
    user,
};
use crate::{
    domain::{
        account::Account,
        name::{Faults, MAX_DESCRIPTION_CHARS, MAX_NAME_CHARS},
        permission::{Permission, Permissions, Role, SYSTEM_PERMISSIONS, matching},
        role::{Grant, Limited, Limits, MAX_PATTERNS, OwnRole, RoleRef},
    },
    error::{Error, Result},
    store::{Reading, Scan, Tx, key::Kind, table},
};

const NOUN: &str = "role";
const MISSING: Error = Error::NotFound("role");
const MAX_ROLES: usize = 200;
/// Events that one transaction removes with a role.
const DELETE_PAGE: usize = 500;

/// A built-in role, or one that people made.
#[derive(Clone, Debug)]
pub enum AnyRole {
    BuiltIn(Role),
    Own(OwnRole),
}

impl AnyRole {
    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(role) => role.as_str(),
            Self::Own(role) => &role.name,
        }
    }

    pub fn reference(&self) -> RoleRef {
        match self {
            Self::BuiltIn(role) => RoleRef::BuiltIn(*role),
            Self::Own(role) => RoleRef::Own(role.id),
        }
    }

    /// What it gives to users of the account.
    pub fn grant(&self, account: &Account) -> Grant {
        let (permissions, limits) = match self {
            Self::BuiltIn(role) => (role.permissions(), None),
            Self::Own(role) => (role.granted(), role.limits.clone()),
        };
        Grant { permissions: within(account, permissions), limits }
    }
}

/// Less what concerns the coordinator as a whole, unless the account runs it.
fn within(account: &Account, permissions: Permissions) -> Permissions {
    if account.runs_system { permissions } else { permissions - SYSTEM_PERMISSIONS }
}

/// The role with this id or name.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<AnyRole> {
    if let Some(role) = Role::parse(text) {
        return Ok(AnyRole::BuiltIn(role));
    }
    let found = match text.parse::<RoleId>() {
        Ok(id) => table::find(reading, id)?,
        Err(_) => table::find_by(reading, Kind::OwnRoleByName, text)?,
    };
    found.map(AnyRole::Own).ok_or(MISSING)
}

/// The role that a user has. One that is gone gives nothing.
fn referred(reading: &dyn Reading, reference: RoleRef) -> Result<Option<AnyRole>> {
    Ok(match reference {
        RoleRef::BuiltIn(role) => Some(AnyRole::BuiltIn(role)),
        RoleRef::Own(id) => table::find(reading, id)?.map(AnyRole::Own),
    })
}

/// Names of the roles that a user has.
pub fn names(reading: &dyn Reading, references: &[RoleRef]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for reference in references {
        names.extend(referred(reading, *reference)?.map(|role| role.name().to_owned()));
    }
    Ok(names)
}

/// What roles come to together: permissions, and how far each of them reaches where that is limited.
pub fn rights(reading: &dyn Reading, account: &Account, roles: &[RoleRef]) -> Result<(Permissions, Option<Reach>)> {
    let mut grants = Vec::new();
    for reference in roles {
        grants.extend(referred(reading, *reference)?.map(|role| role.grant(account)));
    }
    let permissions = grants.iter().fold(Permissions::new(), |all, grant| all | grant.permissions);
    let is_limited = grants.iter().any(|grant| grant.limits.is_some());
    Ok((permissions, is_limited.then(|| Reach::Roles(grants.into()))))
}

/// A permission that the role gives and the caller does not have, or does not have for everything.
pub fn not_had(reading: &dyn Reading, caller: &Caller, role: &AnyRole) -> Result<Option<Permission>> {
    let granted = role.grant(&account::own(reading)?).permissions;
    let nouns = [Limited::RobotGroups, Limited::Queues, Limited::Folders];
    let has = |permission: &Permission| {
        caller.permissions.contains(*permission) && !nouns.iter().any(|noun| caller.is_limited(*permission, *noun))
    };
    Ok(granted.iter().find(|permission| !has(permission)))
}

/// Refuses to touch a role that holds more than the caller.
fn require_had(reading: &dyn Reading, caller: &Caller, role: &AnyRole) -> Result<()> {
    match not_had(reading, caller, role)? {
        Some(permission) => Err(Error::Forbidden(format!(
            "the role {} gives {}, which you do not have yourself",
            role.name(),
            permission.as_str()
        ))),
        None => Ok(()),
    }
}

/// All roles, the built-in ones first, then by name.
pub fn list(reading: &dyn Reading, caller: &Caller, query: &PageQuery) -> Result<Page<AnyRole>> {
    caller.require(Permission::RoleRead)?;
    let limit = limit(query.limit, super::list::DEFAULT_LIMIT)?;
    let own = Scan::of(reading, Kind::OwnRoleByName, ()).indexed::<OwnRole>(reading, MAX_ROLES)?;
    let all = Role::ALL.into_iter().map(AnyRole::BuiltIn).chain(own.into_iter().map(|(_, role)| AnyRole::Own(role)));
    let place = |role: &AnyRole| match role {
        AnyRole::BuiltIn(role) => format!("0{}", *role as u8),
        AnyRole::Own(role) => format!("1{}", role.name),
    };
    let after = match &query.cursor {
        Some(cursor) => position_of(cursor, NOUN)?,
        None => Vec::new(),
    };
    let mut items: Vec<AnyRole> =
        all.filter(|role| place(role).into_bytes() > after).take(limit.saturating_add(1)).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| cursor_at(place(last).as_bytes(), NOUN));
    Ok(Page { items, next_cursor })
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<AnyRole> {
    caller.require(Permission::RoleRead)?;
    resolve(reading, text)
}

fn check_name(faults: &mut Faults, name: &str) {
    faults.name("/name", name);
    if Role::parse(name).is_some() {
        faults.add("/name", "this is the name of a built-in role");
    }
}

fn check_permissions(faults: &mut Faults, patterns: &[String]) {
    if patterns.len() > MAX_PATTERNS {
        faults.add("/permissions", format!("more than {MAX_PATTERNS} permissions"));
    }
    for (number, pattern) in patterns.iter().enumerate().take(MAX_PATTERNS) {
        if matching(pattern).is_none() {
            let pattern: String = pattern.chars().take(MAX_NAME_CHARS).collect();
            let text = format!(
                "there is no permission {pattern:?}; say noun:verb, noun:* or *: the role admin has all there are \
                 (drover role show admin)"
            );
            faults.add(format!("/permissions/{number}"), text);
        }
    }
}

fn check_limits(faults: &mut Faults, limits: Option<&RoleLimits>) -> Option<Limits> {
    let limits = limits?;
    let lists = [("robot_groups", &limits.robot_groups), ("queues", &limits.queues), ("folders", &limits.folders)];
    for (name, patterns) in lists {
        let patterns = patterns.as_deref().unwrap_or_default();
        if patterns.len() > MAX_PATTERNS {
            faults.add(format!("/limits/{name}"), format!("more than {MAX_PATTERNS} patterns"));
        }
        for (number, pattern) in patterns.iter().enumerate().take(MAX_PATTERNS) {
            let pointer = format!("/limits/{name}/{number}");
            faults.text(&pointer, pattern, MAX_NAME_CHARS * 2);
            if pattern.is_empty() {
                faults.add(pointer, "a pattern must not be empty; * stands for any name");
            }
        }
    }
    let (robot_groups, queues, folders) = (limits.robot_groups.clone(), limits.queues.clone(), limits.folders.clone());
    Some(Limits { robot_groups, queues, folders }).filter(|limits| !limits.is_empty())
}

/// The limits that a change leaves: those that it does not name stay.
fn merged(limits: Option<&Limits>, patch: &RoleLimitsPatch) -> RoleLimits {
    let Limits { robot_groups, queues, folders } = limits.cloned().unwrap_or_default();
    RoleLimits {
        robot_groups: patch.robot_groups.clone().unwrap_or(robot_groups),
        queues: patch.queues.clone().unwrap_or(queues),
        folders: patch.folders.clone().unwrap_or(folders),
    }
}

pub fn create(tx: &mut Tx, caller: &Caller, new: &NewRole) -> Result<AnyRole> {
    caller.require_whole(Permission::RoleCreate)?;
    let mut faults = Faults::default();
    check_name(&mut faults, &new.name);
    faults.text("/description", &new.description, MAX_DESCRIPTION_CHARS);
    check_permissions(&mut faults, &new.permissions);
    let limits = check_limits(&mut faults, new.limits.as_ref());
    faults.check()?;
    if Scan::of(tx, Kind::OwnRole, ()).pairs(tx, MAX_ROLES)?.len() >= MAX_ROLES {
        return Err(Error::wrong_state(format!("the account has {MAX_ROLES} roles; delete some first")));
    }
    let role = OwnRole {
        id: RoleId::from_uuid(tx.new_id()),
        name: new.name.clone(),
        description: new.description.clone(),
        permissions: new.permissions.iter().cloned().collect(),
        limits,
        created_at: tx.now(),
        revision: 1,
    };
    require_had(tx, caller, &AnyRole::Own(role.clone()))?;
    table::insert(tx, &role)?;
    event::note(tx, role.id.uuid(), "role_created", "the role was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, role.id, &role.name).after(&role))?;
    Ok(AnyRole::Own(role))
}

/// A role that people made, for changing it.
fn own(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<OwnRole> {
    let found = resolve(reading, text)?;
    require_had(reading, caller, &found)?;
    match found {
        AnyRole::Own(role) => Ok(role),
        AnyRole::BuiltIn(_) => Err(Error::wrong_state("built-in roles stay as they are; make a role of your own")),
    }
}

/// Changes a role; whoever has it has the new rights from the next call on.
pub fn update(tx: &mut Tx, caller: &Caller, text: &str, patch: &RolePatch, revision: Option<u64>) -> Result<AnyRole> {
    caller.require_whole(Permission::RoleUpdate)?;
    let mut role = own(tx, caller, text)?;
    table::check_revision(role.revision, revision)?;
    let before = role.clone();
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        check_name(&mut faults, name);
        role.name = name.clone();
    }
    if let Some(description) = &patch.description {
        faults.text("/description", description, MAX_DESCRIPTION_CHARS);
        role.description = description.clone();
    }
    if let Some(permissions) = &patch.permissions {
        check_permissions(&mut faults, permissions);
        role.permissions = permissions.iter().cloned().collect();
    }
    if let Some(limits) = &patch.limits {
        let limits = limits.as_ref().map(|limits| merged(role.limits.as_ref(), limits));
        role.limits = check_limits(&mut faults, limits.as_ref());
    }
    faults.check()?;
    require_had(tx, caller, &AnyRole::Own(role.clone()))?;
    table::update(tx, &mut role)?;
    event::note(tx, role.id.uuid(), "role_changed", "the role was changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, role.id, &role.name).change(&before, &role))?;
    Ok(AnyRole::Own(role))
}

/// A role that somebody has is kept.
/// Deletes a role that nobody has, with its events, a page at a time: call until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    caller.require_whole(Permission::RoleDelete)?;
    let role = own(tx, caller, text)?;
    table::check_revision(role.revision, revision)?;
    let holders = user::with_role(tx, RoleRef::Own(role.id))?;
    if let Some(first) = holders.first() {
        let others = holders.len() - 1;
        let text = format!("{} and {others} other users have the role; give them another one first", first.login);
        return Err(Error::in_use(text));
    }
    if !event::delete_page(tx, role.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    audit::append(tx, caller, Act::new("delete", NOUN, role.id, &role.name).before(&role))?;
    table::delete::<OwnRole>(tx, role.id)?;
    Ok(true)
}
