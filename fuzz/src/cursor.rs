//! Cursors of lists: texts from anywhere, and such as have the right checksum although no list has given them.

use std::{cell::LazyCell, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use drover_coordinator::{
    domain::process::Process,
    operations::{
        list::{Via, page},
        process,
    },
    store::{Db, Record, Scan, key::Kind},
};
use drover_protocol::{AccountId, page::PageQuery};
use uuid::Uuid;

use crate::world;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn account(number: u128) -> AccountId {
    AccountId::from_uuid(Uuid::from_u128(number))
}

/// Two accounts with processes of their own.
fn two_accounts() -> Arc<Db> {
    let db = world::db();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for (number, prefix) in [(1, "mine"), (2, "theirs")] {
        for name in NAMES {
            let new = serde_json::from_value(serde_json::json!({ "name": format!("{prefix} {name}") }));
            let new = new.expect("a new process");
            let caller = caller(account(number));
            let made = db.write(account(number), move |tx| process::create(tx, &caller, &new));
            runtime.block_on(made).expect("it is made");
        }
    }
    db
}

fn caller(account: AccountId) -> drover_coordinator::operations::Caller {
    use drover_coordinator::{domain::permission::Role, operations::Actor};
    drover_coordinator::operations::Caller {
        account,
        actor: Actor::User { id: drover_protocol::UserId::from_uuid(Uuid::nil()), login: "x".to_owned() },
        key_id: drover_protocol::KeyId::from_uuid(Uuid::nil()),
        permissions: Role::Admin.permissions(),
        reach: None,
        address: None,
    }
}

thread_local! {
    static DB: LazyCell<Arc<Db>> = LazyCell::new(two_accounts);
}

fn signed(position: &[u8]) -> String {
    let sum = crc32c::crc32c_append(crc32c::crc32c(Process::NOUN.as_bytes()), position);
    URL_SAFE_NO_PAD.encode([position, &sum.to_be_bytes()].concat())
}

/// Whatever the cursor, a page holds records of its own account alone, each at most once.
pub fn run(bytes: &[u8]) {
    for cursor in [String::from_utf8_lossy(bytes).into_owned(), signed(bytes)] {
        for (kind, via) in [(Kind::Process, Via::Records), (Kind::ProcessByName, Via::Index)] {
            for newest_first in [false, true] {
                let query = PageQuery { limit: Some(2), cursor: Some(cursor.clone()), ..PageQuery::default() };
                let found = DB.with(|db| {
                    db.read(account(1), |reading| {
                        let scan = Scan::of(reading, kind, ());
                        let scan = if newest_first { scan.newest_first() } else { scan };
                        page::<Process>(reading, scan, via, &query, |_| true)
                    })
                });
                let Ok(found) = found else { continue };
                assert!(found.items.len() <= 2);
                assert!(found.items.iter().all(|process| process.name.starts_with("mine")), "{cursor}");
            }
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let first = Uuid::from_u128(1);
    let real = DB.with(|db| {
        let query = PageQuery { limit: Some(1), ..PageQuery::default() };
        db.read(account(1), |reading| {
            page::<Process>(reading, Scan::of(reading, Kind::Process, ()), Via::Records, &query, |_| true)
        })
    });
    let real = real.expect("a page").next_cursor.expect("there is more");
    vec![real.into_bytes(), first.as_bytes().to_vec(), b"mine b".to_vec(), vec![0xff; 40], Vec::new()]
}
