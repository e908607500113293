//! Accounts, their first user, and who is asking.

use drover_protocol::{AccountId, RobotGroupId, Timestamp, UserId, account::AccountPatch};

use super::{
    Caller,
    audit::{self, Act},
    event, key,
};
use crate::{
    domain::{
        account::{Account, User},
        name::Faults,
        permission::{Permission, Role},
        robot::{ALL_GROUP, RobotGroup},
    },
    error::Result,
    secrets::Secrets,
    store::{
        Reading, Scan, Tx,
        key::{Kind, SYSTEM_ACCOUNT},
        table,
    },
};

/// The first account and its administrator.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub account: String,
    pub login: String,
    /// argon2id in PHC form.
    pub password_hash: Option<String>,
    /// The administrator's key, if it is given from outside.
    pub api_key: Option<String>,
}

/// Makes the first account, its administrator with the full rights of one, and the group of all robots. Gives the
/// text of the administrator's key.
pub fn bootstrap(tx: &mut Tx, account: AccountId, wanted: &Bootstrap, secrets: &Secrets) -> Result<String> {
    let now = tx.now();
    let record = Account { id: account, name: wanted.account.clone(), created_at: now, revision: 1 };
    tx.in_account(SYSTEM_ACCOUNT, |tx| table::insert(tx, &record))?;
    let user = User {
        id: UserId::from_uuid(tx.new_id()),
        login: wanted.login.clone(),
        roles: vec![Role::Admin],
        password_hash: wanted.password_hash.clone(),
        blocked: false,
        created_at: now,
        revision: 1,
    };
    table::insert(tx, &user)?;
    let group = all_group(RobotGroupId::from_uuid(tx.new_id()), now);
    table::insert(tx, &group)?;
    let text = wanted.api_key.clone();
    let (_, text) = key::make_own(tx, user.id, text, secrets)?;
    event::note(tx, account.uuid(), "account_created", "the account and its administrator were made", "coordinator")?;
    Ok(text)
}

fn all_group(id: RobotGroupId, now: Timestamp) -> RobotGroup {
    RobotGroup {
        id,
        name: ALL_GROUP.to_owned(),
        description: "Every robot of the account".to_owned(),
        enabled: true,
        pause: None,
        robot_count: 0,
        created_at: now,
        revision: 1,
    }
}

/// Ids of all accounts, for the loops. `reading` is of the system account.
pub fn all(reading: &dyn Reading) -> Result<Vec<AccountId>> {
    let found = Scan::of(reading, Kind::Account, ()).records::<Account>(reading, 100_000)?;
    Ok(found.into_iter().map(|(_, account)| account.id).collect())
}

/// The caller's account. `reading` is of the system account.
pub fn get(reading: &dyn Reading, caller: &Caller) -> Result<Account> {
    table::get(reading, caller.account)
}

pub fn update(tx: &mut Tx, caller: &Caller, patch: &AccountPatch, revision: Option<u64>) -> Result<Account> {
    caller.require(Permission::AccountUpdate)?;
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        faults.name("/name", name);
    }
    faults.check()?;
    let (before, account) = tx.in_account(SYSTEM_ACCOUNT, |tx| {
        let mut account: Account = table::get(tx, caller.account)?;
        table::check_revision(account.revision, revision)?;
        let before = account.clone();
        account.name = patch.name.clone().unwrap_or(account.name);
        table::update(tx, &mut account)?;
        Ok::<_, crate::error::Error>((before, account))
    })?;
    event::note(tx, account.id.uuid(), "account_changed", "the account's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", "account", account.id, &account.name).change(&before, &account))?;
    Ok(account)
}
