//! Users of an account.
//!
//! Whoever changes a user must have all that the user may do: a password or a role given to somebody with more rights
//! would be a way to these. The account always keeps an administrator who is not blocked.

use drover_protocol::{
    UserId,
    account::NewAdmin,
    page::PageQuery,
    user::{NewUser, UserFilter, UserPatch},
};

use super::{
    Caller,
    audit::{self, Act},
    event, key,
    list::{self, Page, Via},
    role::{self, not_had},
    session,
};
use crate::{
    domain::{
        account::{User, password_fault},
        key::Owner,
        name::{Faults, MAX_NAME_CHARS},
        permission::Permission,
        role::RoleRef,
        schedule::is_zone,
    },
    error::{Error, Result},
    secrets::Secrets,
    store::{Reading, Scan, Tx, key::Kind, table},
};

const NOUN: &str = "user";
/// All of them are looked at when a role or the last administrator is about to go.
const MAX_USERS: usize = 1_000;
const DELETE_PAGE: usize = 500;
const MAX_ROLES: usize = 32;
const MAX_EMAIL_CHARS: usize = 254;
const MAX_EXTERNAL_ID_CHARS: usize = 1024;

/// The user with this id or login.
pub fn resolve(reading: &dyn Reading, text: &str) -> Result<User> {
    super::by_id_or_name(reading, Kind::UserByLogin, text)
}

fn all(reading: &dyn Reading) -> Result<Vec<User>> {
    let found = Scan::of(reading, Kind::User, ()).records::<User>(reading, MAX_USERS)?;
    Ok(found.into_iter().map(|(_, user)| user).collect())
}

/// Users who have the role.
pub fn with_role(reading: &dyn Reading, role: RoleRef) -> Result<Vec<User>> {
    Ok(all(reading)?.into_iter().filter(|user| user.roles.contains(&role)).collect())
}

pub fn list(reading: &dyn Reading, caller: &Caller, filter: &UserFilter, query: &PageQuery) -> Result<Page<User>> {
    caller.require(Permission::UserRead)?;
    let part = filter.q.as_ref().map(|part| part.to_lowercase());
    let role = match &filter.role {
        Some(text) => Some(role_named(reading, text, "role")?.reference()),
        None => None,
    };
    let scan = Scan::of(reading, Kind::User, ()).newest_first();
    list::page(reading, scan, Via::Records, query, |user: &User| {
        let called =
            |part: &String| user.login.to_lowercase().contains(part) || user.name.to_lowercase().contains(part);
        part.as_ref().is_none_or(called)
            && role.is_none_or(|role| user.roles.contains(&role))
            && filter.blocked.is_none_or(|blocked| user.blocked == blocked)
    })
}

pub fn get(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<User> {
    caller.require(Permission::UserRead)?;
    resolve(reading, text)
}

fn role_named(reading: &dyn Reading, text: &str, pointer: &str) -> Result<role::AnyRole> {
    role::resolve(reading, text).map_err(|error| match error {
        Error::NotFound(_) => Error::invalid(pointer, "there is no such role"),
        other => other,
    })
}

/// The roles that a request names. Those that the user does not have yet the caller must be able to give.
fn roles_of(reading: &dyn Reading, caller: &Caller, texts: &[String], has: &[RoleRef]) -> Result<Vec<RoleRef>> {
    if texts.len() > MAX_ROLES {
        return Err(Error::invalid("/roles", format!("a user may have at most {MAX_ROLES} roles")));
    }
    let (mut roles, mut faults) = (Vec::new(), Faults::default());
    for (number, text) in texts.iter().enumerate() {
        let pointer = format!("/roles/{number}");
        let role = role_named(reading, text, &pointer)?;
        let reference = role.reference();
        if !has.contains(&reference)
            && let Some(permission) = not_had(reading, caller, &role)?
        {
            let lacking = permission.as_str();
            faults.add(pointer, format!("this role gives {lacking}, which you do not have yourself"));
        }
        if !roles.contains(&reference) {
            roles.push(reference);
        }
    }
    faults.check()?;
    Ok(roles)
}

/// Refuses to touch a user who may do more than the caller.
fn require_no_more(reading: &dyn Reading, caller: &Caller, user: &User) -> Result<()> {
    for reference in &user.roles {
        let Ok(role) = role::resolve(reading, &reference.text()) else { continue };
        if let Some(permission) = not_had(reading, caller, &role)? {
            return Err(Error::Forbidden(format!(
                "{} has {}, which you do not have yourself; ask somebody who has it",
                user.login,
                permission.as_str()
            )));
        }
    }
    Ok(())
}

/// What is wrong with the person's particulars.
fn check(faults: &mut Faults, user: &User) {
    faults.text("/name", &user.name, MAX_NAME_CHARS);
    check_email(faults, user.email.as_deref());
    if let Some(external_id) = &user.external_id {
        faults.text("/external_id", external_id, MAX_EXTERNAL_ID_CHARS);
        if !["openid:", "ldap:"].iter().any(|prefix| external_id.starts_with(prefix)) {
            faults.add("/external_id", "must begin with openid: or ldap:");
        }
    }
    if user.time_zone.as_deref().is_some_and(|zone| !is_zone(zone)) {
        faults.add("/time_zone", "there is no such time zone; say one such as Europe/Berlin");
    }
}

fn check_email(faults: &mut Faults, email: Option<&str>) {
    let Some(email) = email else { return };
    faults.text("/email", email, MAX_EMAIL_CHARS);
    let is_address = email.split_once('@').is_some_and(|(who, host)| !who.is_empty() && !host.is_empty());
    if !is_address || email.chars().any(char::is_whitespace) {
        faults.add("/email", "is not an address such as ann@example.com");
    }
}

fn check_login(faults: &mut Faults, login: &str) {
    faults.name("/login", login);
    if login.to_lowercase() != login {
        faults.add("/login", "a login has no capital letters");
    }
}

/// What is wrong with the first user of an account.
pub fn check_new(faults: &mut Faults, admin: &NewAdmin) {
    let mut own = Faults::default();
    check_login(&mut own, &admin.login);
    own.text("/name", &admin.name, MAX_NAME_CHARS);
    check_email(&mut own, admin.email.as_deref());
    for fault in own.check().err().into_iter().flatten() {
        faults.add(format!("/admin{}", fault.pointer), fault.detail);
    }
}

/// What is wrong with a new user.
pub fn check_whole(faults: &mut Faults, user: &User) {
    check_login(faults, &user.login);
    check(faults, user);
}

/// Refuses a further user when there are too many.
pub fn require_room(reading: &dyn Reading) -> Result<()> {
    match all(reading)?.len() < MAX_USERS {
        true => Ok(()),
        false => Err(Error::wrong_state(format!("the account has {MAX_USERS} users; delete some first"))),
    }
}

/// The user who is known elsewhere by this.
pub fn with_external_id(reading: &dyn Reading, external_id: &str) -> Result<Option<User>> {
    Ok(all(reading)?.into_iter().find(|user| user.external_id.as_deref() == Some(external_id)))
}

fn require_free_external_id(reading: &dyn Reading, user: &User) -> Result<()> {
    let Some(external_id) = &user.external_id else { return Ok(()) };
    match with_external_id(reading, external_id)?.filter(|other| other.id != user.id) {
        Some(_) => Err(Error::invalid("/external_id", "another user has it")),
        None => Ok(()),
    }
}

/// Whether some user has this login.
pub fn has_login(reading: &dyn Reading, login: &str) -> Result<bool> {
    Ok(table::find_by::<User>(reading, Kind::UserByLogin, login)?.is_some())
}

/// Refuses a password that is too easy, before it is hashed.
pub fn check_password(password: &str, login: &str, pointer: &str) -> Result<()> {
    match password_fault(password, login) {
        Some(fault) => Err(Error::invalid(pointer, fault)),
        None => Ok(()),
    }
}

/// Makes a user with an own key, and gives the text of that.
pub fn create(
    tx: &mut Tx,
    caller: &Caller,
    new: &NewUser,
    password_hash: Option<String>,
    secrets: &Secrets,
) -> Result<(User, String)> {
    caller.require_whole(Permission::UserCreate)?;
    let user = User {
        id: UserId::from_uuid(tx.new_id()),
        login: new.login.clone(),
        name: new.name.clone(),
        email: new.email.clone(),
        roles: roles_of(tx, caller, &new.roles, &[])?,
        locale: new.locale.unwrap_or_default(),
        time_zone: new.time_zone.clone(),
        password_hash,
        external_id: new.external_id.clone(),
        blocked: false,
        last_sign_in_at: None,
        created_at: tx.now(),
        revision: 1,
    };
    let mut faults = Faults::default();
    check_whole(&mut faults, &user);
    faults.check()?;
    require_room(tx)?;
    require_free_external_id(tx, &user)?;
    table::insert(tx, &user)?;
    let (_, text) = key::make_own(tx, user.id, None, secrets)?;
    event::note(tx, user.id.uuid(), "user_created", "the user was made", caller.by())?;
    audit::append(tx, caller, Act::new("create", NOUN, user.id, &user.login).after(&user))?;
    Ok((user, text))
}

/// Refuses a change after which nobody could give rights any more.
pub fn require_an_admin(reading: &dyn Reading, before: &User, after: Option<&User>) -> Result<()> {
    if !before.is_admin() || after.is_some_and(User::is_admin) {
        return Ok(());
    }
    match all(reading)?.iter().any(|other| other.id != before.id && other.is_admin()) {
        true => Ok(()),
        false => Err(Error::wrong_state(
            "this is the last administrator of the account; give somebody else the role admin first",
        )),
    }
}

/// Changes a user. `password_hash` is that of the patch's password.
pub fn update(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    patch: &UserPatch,
    password_hash: Option<String>,
    revision: Option<u64>,
) -> Result<User> {
    caller.require_whole(Permission::UserUpdate)?;
    let before = resolve(tx, text)?;
    table::check_revision(before.revision, revision)?;
    require_no_more(tx, caller, &before)?;
    let mut user = before.clone();
    let mut faults = Faults::default();
    if let Some(login) = patch.login.as_ref().filter(|login| **login != before.login) {
        check_login(&mut faults, login);
        user.login = login.clone();
    }
    user.name = patch.name.clone().unwrap_or(user.name);
    user.email = patch.email.clone().unwrap_or(user.email);
    user.locale = patch.locale.unwrap_or(user.locale);
    user.time_zone = patch.time_zone.clone().unwrap_or(user.time_zone);
    user.blocked = patch.blocked.unwrap_or(user.blocked);
    user.external_id = patch.external_id.clone().unwrap_or(user.external_id);
    check(&mut faults, &user);
    faults.check()?;
    if let Some(texts) = &patch.roles {
        user.roles = roles_of(tx, caller, texts, &before.roles)?;
    }
    if patch.password.is_some() {
        user.password_hash = password_hash;
    }
    require_an_admin(tx, &before, Some(&user))?;
    require_free_external_id(tx, &user)?;
    table::update(tx, &mut user)?;
    if user.blocked || patch.password.is_some() || user.external_id != before.external_id {
        session::end_all_of(tx, user.id, None)?;
    }
    if user.blocked || user.roles != before.roles {
        key::wake_of(tx, Owner::User(user.id))?;
    }
    event::note(tx, user.id.uuid(), "user_changed", "the user was changed", caller.by())?;
    let verb = match (before.blocked, user.blocked) {
        (false, true) => "block",
        (true, false) => "unblock",
        _ => "update",
    };
    audit::append(tx, caller, Act::new(verb, NOUN, user.id, &user.login).change(&before, &user))?;
    Ok(user)
}

/// The user whose password is to be changed by the user, and the hash that the old one must fit.
pub fn for_own_password(reading: &dyn Reading, caller: &Caller) -> Result<User> {
    table::get(reading, caller.user()?)
}

/// Sets the caller's own password. All other sessions of the user end; whoever was in them may have known the old one.
pub fn set_own_password(tx: &mut Tx, caller: &Caller, password_hash: String) -> Result<()> {
    let mut user = for_own_password(tx, caller)?;
    user.password_hash = Some(password_hash);
    table::update(tx, &mut user)?;
    session::end_all_of(tx, user.id, Some(caller.key_id))?;
    event::note(tx, user.id.uuid(), "password_changed", "the user has changed the password", caller.by())?;
    audit::append(tx, caller, Act::new("change_password", NOUN, user.id, &user.login))
}

/// Writes down that somebody tried to change the password and did not know the old one.
pub fn note_wrong_password(tx: &mut Tx, caller: &Caller) -> Result<()> {
    let user: User = table::get(tx, caller.user()?)?;
    audit::append(tx, caller, Act::new("change_password_refused", NOUN, user.id, &user.login))
}

/// Removes a user; keys and sessions end at once. What the user has done stays known by the id.
/// Deletes a user with what is told of that one, a page at a time: call until it gives `true`.
pub fn delete_page(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<bool> {
    caller.require_whole(Permission::UserDelete)?;
    let user = resolve(tx, text)?;
    table::check_revision(user.revision, revision)?;
    require_no_more(tx, caller, &user)?;
    require_an_admin(tx, &user, None)?;
    if !event::delete_page(tx, user.id.uuid(), DELETE_PAGE)? {
        return Ok(false);
    }
    key::revoke_of(tx, Owner::User(user.id))?;
    audit::append(tx, caller, Act::new("delete", NOUN, user.id, &user.login).before(&user))?;
    table::delete::<User>(tx, user.id)?;
    Ok(true)
}
