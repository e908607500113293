//! What becomes of somebody who has proven elsewhere who they are: which user that is, and which roles they have.

use drover_protocol::{AccountId, UserId};

use super::{
    account,
    audit::{self, Act, Author},
    event, key, role, user,
};
use crate::{
    domain::{account::User, name::Faults, role::RoleRef},
    error::{Error, Result},
    external::{Admission, Known},
    secrets::Secrets,
    store::{Reading, Tx, table},
};

const BY: &str = "coordinator";

/// Into which account people come. `reading` is of the system account.
pub fn account_of(reading: &dyn Reading, admission: &Admission) -> Result<AccountId> {
    let missing = || Error::Unavailable("the account for this way of signing in is missing".to_owned());
    if admission.account.is_empty() {
        return account::home(reading)?.ok_or_else(missing);
    }
    match account::named(reading, &admission.account)?.as_slice() {
        [only] => Ok(only.id),
        _ => Err(missing()),
    }
}

/// The roles that somebody's groups give; what names no role of the account gives nothing.
fn roles_of(reading: &dyn Reading, known: &Known, admission: &Admission) -> Result<Vec<RoleRef>> {
    let by_group = admission.roles.iter().filter(|(group, _)| known.groups.contains(group)).map(|(_, role)| role);
    let mut names: Vec<&String> = by_group.collect();
    if names.is_empty() {
        names = admission.default_roles.iter().collect();
    }
    let mut roles = Vec::new();
    for name in names {
        match role::resolve(reading, name) {
            Ok(found) if !roles.contains(&found.reference()) => roles.push(found.reference()),
            Ok(_) => {}
            Err(Error::NotFound(_)) => tracing::warn!(role = name, "a group gives a role that there is not"),
            Err(other) => return Err(other),
        }
    }
    Ok(roles)
}

/// The user who this is, made if need be, with the roles that their groups give now.
pub fn admit(tx: &mut Tx, known: &Known, admission: &Admission, secrets: &Secrets) -> Result<UserId> {
    let roles = roles_of(tx, known, admission)?;
    match user::with_external_id(tx, &known.external_id)? {
        Some(user) => admit_again(tx, user, roles, admission),
        None => make(tx, known, roles, admission, secrets),
    }
}

fn admit_again(tx: &mut Tx, before: User, roles: Vec<RoleRef>, admission: &Admission) -> Result<UserId> {
    let are_given_here = !admission.roles.is_empty();
    if before.blocked || !are_given_here || before.roles == roles {
        return Ok(before.id);
    }
    let mut user = User { roles, ..before.clone() };
    if let Err(refusal) = user::require_an_admin(tx, &before, Some(&user)) {
        tracing::warn!(user = user.login, %refusal, "the roles of a user stay as they are");
        return Ok(before.id);
    }
    table::update(tx, &mut user)?;
    event::note(tx, user.id.uuid(), "roles_changed", "the user's groups give other roles now", BY)?;
    audit::append_as(
        tx,
        Author::coordinator(),
        Act::new("update", "user", user.id, &user.login).change(&before, &user),
    )?;
    Ok(user.id)
}

fn make(tx: &mut Tx, known: &Known, roles: Vec<RoleRef>, admission: &Admission, secrets: &Secrets) -> Result<UserId> {
    let refuse = |text: String| Err(Error::Forbidden(text));
    if !admission.creates_users {
        return refuse(format!("no user has the external_id {}; ask an administrator to set it", known.external_id));
    }
    if roles.is_empty() {
        return refuse("none of your groups gives you a role here; ask an administrator".to_owned());
    }
    let login = known.login.to_lowercase();
    if user::has_login(tx, &login)? {
        // Whoever may choose a name elsewhere must not become somebody by it here.
        return refuse(format!(
            "the login {login} is that of a user who signs in otherwise; an administrator may set the external_id of \
             that user to {}",
            known.external_id
        ));
    }
    let mut faults = Faults::default();
    let user = User {
        id: UserId::from_uuid(tx.new_id()),
        login,
        name: known.name.clone(),
        email: known.email.clone(),
        roles,
        locale: Default::default(),
        time_zone: None,
        password_hash: None,
        external_id: Some(known.external_id.clone()),
        blocked: false,
        last_sign_in_at: None,
        created_at: tx.now(),
        revision: 1,
    };
    user::check_whole(&mut faults, &user);
    faults.check()?;
    user::require_room(tx)?;
    table::insert(tx, &user)?;
    key::make_own(tx, user.id, None, secrets)?;
    event::note(tx, user.id.uuid(), "user_created", "the user has signed in for the first time", BY)?;
    audit::append_as(tx, Author::coordinator(), Act::new("create", "user", user.id, &user.login).after(&user))?;
    Ok(user.id)
}
