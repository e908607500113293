//! Accounts, their first user, and who is asking.

use drover_protocol::{
    AccountId, RobotGroupId, Timestamp, UserId,
    account::{AccountChange, AccountPatch, NewAccount},
    page::PageQuery,
    user::Locale,
};

use super::{
    Caller,
    audit::{self, Act},
    census, event, file, join_token, key,
    list::{self, Page, Via},
    log_sealing, process_version,
    trigger::by_webhook,
    user,
};
use crate::{
    domain::{
        account::{Account, User},
        file::File,
        key::{ApiKey, JoinToken},
        log::LogBlock,
        name::Faults,
        permission::{Permission, Role},
        process::ProcessVersion,
        robot::{ALL_GROUP, RobotGroup},
        role::RoleRef,
        trigger::Trigger,
    },
    error::{Error, Result},
    secrets::Secrets,
    store::{
        Reader, Reading, Scan, Topic, Tx,
        key::{Kind, SYSTEM_ACCOUNT},
        table,
    },
};

const NOUN: &str = "account";
const MIN_AUDIT_DAYS: u64 = 30;
const MAX_AUDIT_DAYS: u64 = 36_500;
/// Accounts that one coordinator can have.
pub const MAX_ACCOUNTS: usize = 10_000;

/// An account to be made, and its administrator.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub account: String,
    pub login: String,
    pub name: String,
    pub email: Option<String>,
    /// argon2id in PHC form.
    pub password_hash: Option<String>,
    /// The administrator's key, if it is given from outside.
    pub api_key: Option<String>,
    /// The account runs the coordinator: its administrator sees to all accounts.
    pub runs_system: bool,
    /// For so many days its audit trail is kept at the least; absent: for ever.
    pub audit_retention_days: Option<u32>,
}

/// Makes the first account, its administrator with the full rights of one, and the group of all robots. Gives the
/// text of the administrator's key.
pub fn bootstrap(tx: &mut Tx, account: AccountId, wanted: &Bootstrap, secrets: &Secrets) -> Result<String> {
    let now = tx.now();
    let record = Account {
        id: account,
        name: wanted.account.clone(),
        runs_system: wanted.runs_system,
        disabled: false,
        enabled_at: None,
        deleted: false,
        audit_retention_days: wanted.audit_retention_days,
        created_at: now,
        revision: 1,
    };
    tx.in_account(SYSTEM_ACCOUNT, |tx| table::insert(tx, &record))?;
    let user = User {
        id: UserId::from_uuid(tx.new_id()),
        login: wanted.login.clone(),
        name: wanted.name.clone(),
        email: wanted.email.clone(),
        roles: vec![RoleRef::BuiltIn(Role::Admin)],
        locale: Locale::default(),
        time_zone: None,
        password_hash: wanted.password_hash.clone(),
        external_id: None,
        blocked: false,
        last_sign_in_at: None,
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

/// Ids of all accounts that are there, for the loops. `reading` is of the system account.
pub fn all(reading: &dyn Reading) -> Result<Vec<AccountId>> {
    let found = Scan::of(reading, Kind::Account, ()).records::<Account>(reading, MAX_ACCOUNTS)?;
    Ok(found
        .into_iter()
        .map(|(_, account)| account)
        .filter(|account| !account.deleted)
        .map(|account| account.id)
        .collect())
}

/// Whether anything is known of an account with this id, be it deleted. `reading` is of the system account.
pub fn is_known(reading: &dyn Reading, id: AccountId) -> Result<bool> {
    Ok(table::find::<Account>(reading, id)?.is_some())
}

/// Ids of the accounts into which people get. `reading` is of the system account.
pub fn open(reading: &dyn Reading) -> Result<Vec<AccountId>> {
    let found = some(reading, None, MAX_ACCOUNTS)?;
    Ok(found.into_iter().filter(Account::is_open).map(|account| account.id).collect())
}

/// Some accounts in the order of their ids, after this one. `reading` is of the system account.
pub fn some(reading: &dyn Reading, after: Option<AccountId>, limit: usize) -> Result<Vec<Account>> {
    let mut scan = Scan::of(reading, Kind::Account, ());
    if let Some(after) = after {
        scan = scan.after(&table::index_start(reading, Kind::Account, after));
    }
    Ok(scan.records::<Account>(reading, limit)?.into_iter().map(|(_, account)| account).collect())
}

/// The accounts that a text may mean: one by its id, or those of this name; nobody can be kept from taking a name without
/// learning that another account has it. `reading` is of the system account.
pub fn named(reading: &dyn Reading, text: &str) -> Result<Vec<Account>> {
    if let Ok(id) = text.parse() {
        let found = table::find::<Account>(reading, id)?;
        return Ok(found.into_iter().filter(|account| !account.deleted).collect());
    }
    let found = Scan::of(reading, Kind::Account, ()).records::<Account>(reading, MAX_ACCOUNTS)?;
    Ok(found.into_iter().map(|(_, account)| account).filter(|a| a.name == text && !a.deleted).collect())
}

/// The account that runs the coordinator, if there is one still. `reading` is of the system account.
pub fn home(reading: &dyn Reading) -> Result<Option<AccountId>> {
    let first = some(reading, None, MAX_ACCOUNTS)?.into_iter().find(|account| account.runs_system && !account.deleted);
    Ok(first.map(|account| account.id))
}

/// The account that is read in, whichever that is.
pub fn own(reading: &dyn Reading) -> Result<Account> {
    let system = Reader { view: reading.view(), account: SYSTEM_ACCOUNT, now: reading.now() };
    table::get(&system, reading.account())
}

/// The caller's account. `reading` is of the system account.
pub fn get(reading: &dyn Reading, caller: &Caller) -> Result<Account> {
    table::get(reading, caller.account)
}

pub fn update(tx: &mut Tx, caller: &Caller, patch: &AccountPatch, revision: Option<u64>) -> Result<Account> {
    caller.require_whole(Permission::AccountUpdate)?;
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        faults.name("/name", name);
    }
    if let Some(Some(days)) = patch.audit_retention_days {
        faults.range("/audit_retention_days", u64::from(days), MIN_AUDIT_DAYS, MAX_AUDIT_DAYS);
    }
    faults.check()?;
    let (before, account) = tx.in_account(SYSTEM_ACCOUNT, |tx| {
        let mut account: Account = table::get(tx, caller.account)?;
        table::check_revision(account.revision, revision)?;
        let before = account.clone();
        account.name = patch.name.clone().unwrap_or(account.name);
        account.audit_retention_days = patch.audit_retention_days.unwrap_or(account.audit_retention_days);
        table::update(tx, &mut account)?;
        Ok::<_, Error>((before, account))
    })?;
    event::note(tx, account.id.uuid(), "account_changed", "the account's settings were changed", caller.by())?;
    audit::append(tx, caller, Act::new("update", NOUN, account.id, &account.name).change(&before, &account))?;
    Ok(account)
}

/// Lets an account in whose records have come from elsewhere.
pub fn take_in(tx: &mut Tx, account: &Account) -> Result<()> {
    tx.in_account(SYSTEM_ACCOUNT, |tx| table::insert(tx, account))?;
    event::note(tx, account.id.uuid(), "account_imported", "the account was taken in from an archive", "coordinator")?;
    let act = Act::new("import", NOUN, account.id, &account.name);
    audit::append_as(tx, audit::Author::coordinator(), act)
}

/// What is said of an account that is not there.
const MISSING: Error = Error::NotFound("account");

/// Accounts, newest first, for those who run the coordinator. `reading` is of the system account.
pub fn list(reading: &dyn Reading, caller: &Caller, query: &PageQuery) -> Result<Page<Account>> {
    caller.require(Permission::SystemAccounts)?;
    let scan = Scan::of(reading, Kind::Account, ()).newest_first();
    list::page(reading, scan, Via::Records, query, |account: &Account| !account.deleted)
}

/// The account with this id or name. `reading` is of the system account.
pub fn find(reading: &dyn Reading, caller: &Caller, text: &str) -> Result<Account> {
    caller.require(Permission::SystemAccounts)?;
    let mut found = named(reading, text)?;
    match found.len() {
        0 => Err(MISSING),
        1 => Ok(found.remove(0)),
        _ => Err(Error::wrong_state("several accounts have this name; say the id")),
    }
}

/// Refuses a name that another account has: whoever sees all of them is told.
fn require_free_name(reading: &dyn Reading, name: &str, own: Option<AccountId>) -> Result<()> {
    match named(reading, name)?.into_iter().find(|account| Some(account.id) != own) {
        Some(other) => {
            Err(Error::AlreadyExists { what: "an account of this name".to_owned(), id: other.id.to_string() })
        }
        None => Ok(()),
    }
}

/// Makes an account with its administrator, and gives the text of the administrator's key.
pub fn create(
    tx: &mut Tx,
    caller: &Caller,
    new: &NewAccount,
    password_hash: Option<String>,
    audit_retention_days: Option<u32>,
    secrets: &Secrets,
) -> Result<(Account, String)> {
    caller.require_whole(Permission::SystemAccounts)?;
    let mut faults = Faults::default();
    faults.name("/name", &new.name);
    user::check_new(&mut faults, &new.admin);
    faults.check()?;
    tx.in_account(SYSTEM_ACCOUNT, |tx| {
        if Scan::of(tx, Kind::Account, ()).pairs(tx, MAX_ACCOUNTS)?.len() >= MAX_ACCOUNTS {
            return Err(Error::wrong_state(format!("there are {MAX_ACCOUNTS} accounts; delete some first")));
        }
        require_free_name(tx, &new.name, None)
    })?;
    let id = AccountId::from_uuid(tx.new_id());
    let wanted = Bootstrap {
        account: new.name.clone(),
        login: new.admin.login.clone(),
        name: new.admin.name.clone(),
        email: new.admin.email.clone(),
        password_hash,
        api_key: None,
        runs_system: false,
        audit_retention_days,
    };
    // Nobody else knows of the account before this transaction has ended.
    let text = tx.in_account(id, |tx| bootstrap(tx, id, &wanted, secrets))?;
    let account: Account = tx.in_account(SYSTEM_ACCOUNT, |tx| table::get(tx, id))?;
    audit::append(tx, caller, Act::new("create", NOUN, id, &account.name).after(&account))?;
    Ok((account, text))
}

/// Renames an account, disables it or enables it again.
pub fn change(
    tx: &mut Tx,
    caller: &Caller,
    text: &str,
    change: &AccountChange,
    revision: Option<u64>,
) -> Result<Account> {
    caller.require_whole(Permission::SystemAccounts)?;
    let mut faults = Faults::default();
    if let Some(name) = &change.name {
        faults.name("/name", name);
    }
    faults.check()?;
    let (before, account) = tx.in_account(SYSTEM_ACCOUNT, |tx| {
        let before = find(tx, caller, text)?;
        table::check_revision(before.revision, revision)?;
        if before.id == caller.account && change.disabled == Some(true) {
            return Err(Error::wrong_state("this is your own account; nobody could enable it again"));
        }
        let mut account = before.clone();
        if let Some(name) = &change.name {
            require_free_name(tx, name, Some(account.id))?;
            account.name = name.clone();
        }
        account.disabled = change.disabled.unwrap_or(account.disabled);
        if before.disabled && !account.disabled {
            account.enabled_at = Some(tx.now());
        }
        table::update(tx, &mut account)?;
        Ok((before, account))
    })?;
    let verb = match (before.disabled, account.disabled) {
        (false, true) => "disable",
        (true, false) => "enable",
        _ => "update",
    };
    tx.wake(Topic::Triggers);
    audit::append(tx, caller, Act::new(verb, NOUN, account.id, &account.name).change(&before, &account))?;
    Ok(account)
}

/// Deletes an account: nobody gets in from now on, and a loop removes what it holds.
pub fn delete(tx: &mut Tx, caller: &Caller, text: &str, revision: Option<u64>) -> Result<()> {
    caller.require_whole(Permission::SystemAccounts)?;
    let account = tx.in_account(SYSTEM_ACCOUNT, |tx| {
        let mut account = find(tx, caller, text)?;
        table::check_revision(account.revision, revision)?;
        if account.id == caller.account {
            return Err(Error::wrong_state("this is your own account; another one that runs the system can delete it"));
        }
        account.deleted = true;
        table::update(tx, &mut account)?;
        census::account_goes(tx, account.id)?;
        Ok(account)
    })?;
    tx.wake(Topic::Accounts);
    audit::append(tx, caller, Act::new("delete", NOUN, account.id, &account.name).before(&account))
}

/// Ids of accounts that are deleted and still hold something. `reading` is of the system account.
pub fn deleted(reading: &dyn Reading) -> Result<Vec<AccountId>> {
    let found = some(reading, None, MAX_ACCOUNTS)?;
    Ok(found.into_iter().filter(|account| account.deleted).map(|account| account.id).collect())
}

/// Removes a page of what a deleted account holds; `true` when nothing is left but notes of blobs that are to be deleted.
/// What has entries elsewhere, or content outside of the store, goes first and by its own way.
pub fn remove_page(tx: &mut Tx, limit: usize) -> Result<bool> {
    let keys = Scan::of(tx, Kind::ApiKey, ()).records::<ApiKey>(tx, limit)?;
    let tokens = Scan::of(tx, Kind::JoinToken, ()).records::<JoinToken>(tx, limit)?;
    let versions = Scan::of(tx, Kind::ProcessVersion, ()).records::<ProcessVersion>(tx, limit)?;
    let files = Scan::of(tx, Kind::File, ()).records::<File>(tx, limit)?;
    let blocks = Scan::of(tx, Kind::LogBlock, ()).records::<LogBlock>(tx, limit)?;
    let triggers = Scan::of(tx, Kind::Trigger, ()).records::<Trigger>(tx, limit)?;
    let counts = [keys.len(), tokens.len(), versions.len(), files.len(), blocks.len(), triggers.len()];
    let is_done = counts.iter().all(|len| *len == 0);
    for (_, trigger) in triggers {
        by_webhook::forget(tx, &trigger);
        table::delete::<Trigger>(tx, trigger.id)?;
    }
    for (_, key) in keys {
        key::revoke(tx, key.id)?;
    }
    for (_, token) in tokens {
        join_token::remove(tx, token.id)?;
    }
    for (_, version) in versions {
        process_version::remove(tx, &version)?;
    }
    for (_, file) in files {
        file::remove_record(tx, &file)?;
    }
    for (_, block) in blocks {
        log_sealing::remove_block(tx, &block)?;
    }
    if !is_done {
        return Ok(false);
    }
    remove_pairs(tx, limit)
}

/// Removes a page of whatever lies in an account but notes of blobs that are to be deleted; `true` when nothing is left.
/// Entries elsewhere and content outside of the store are not looked at.
pub fn remove_pairs(tx: &mut Tx, limit: usize) -> Result<bool> {
    let mut left = limit;
    for kind in Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Garbage) {
        let pairs = Scan::of(tx, kind, ()).pairs(tx, left)?;
        left -= pairs.len();
        pairs.into_iter().for_each(|(key, _)| tx.delete(key));
        if left == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

const FORGET_PAGE: usize = 100;

/// Forgets the account itself, when nothing of it is left; whether that is so.
pub fn forget(tx: &mut Tx) -> Result<bool> {
    let id = tx.account();
    // A call that began before the account was deleted may have written something since.
    if !remove_page(tx, FORGET_PAGE)? {
        return Ok(false);
    }
    if !Scan::of(tx, Kind::Garbage, ()).pairs(tx, 1)?.is_empty() {
        return Ok(false);
    }
    tx.in_account(SYSTEM_ACCOUNT, |tx| table::delete::<Account>(tx, id))?;
    Ok(true)
}
