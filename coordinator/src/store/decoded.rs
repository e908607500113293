//! Records that were read a moment ago, in the form in which they are used.
//!
//! Keys, users and queues are read at each request and hardly ever change; reading their stored form costs more than
//! finding it. What was made of the same bytes is given again, so that nothing here can be out of date: a record that has
//! changed has other bytes. Each thread has its own, and none waits for another.

use std::{
    any::{Any, TypeId},
    cell::RefCell,
};

use super::table::Record;
use crate::error::Result;

/// Places of a thread; two records that fall into one place take turns.
const PLACES: usize = 256;
/// Larger records are made anew each time.
const MAX_BYTES: usize = 4 * 1024;

struct Kept {
    of: TypeId,
    bytes: Box<[u8]>,
    record: Box<dyn Any>,
}

thread_local! {
    static KEPT: RefCell<Vec<Option<Kept>>> = RefCell::new(std::iter::repeat_with(|| None).take(PLACES).collect());
}

/// The record that these bytes are: one that was made of the same bytes, or else what `decode` makes of them.
pub fn kept<R: Record>(bytes: &[u8], decode: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
    if bytes.len() > MAX_BYTES {
        return decode(bytes);
    }
    let place = crc32c::crc32c(bytes) as usize % PLACES;
    let known = KEPT.with_borrow(|all| {
        let kept = all[place].as_ref().filter(|kept| kept.of == TypeId::of::<R>() && *kept.bytes == *bytes)?;
        kept.record.downcast_ref::<R>().cloned()
    });
    if let Some(record) = known {
        return Ok(record);
    }
    let record = decode(bytes)?;
    let kept = Kept { of: TypeId::of::<R>(), bytes: bytes.into(), record: Box::new(record.clone()) };
    KEPT.with_borrow_mut(|all| all[place] = Some(kept));
    Ok(record)
}

#[cfg(test)]
mod tests {
    use drover_protocol::{Timestamp, UserId};
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::account::User,
        error::Error,
        store::table::{decode, encode},
    };

    fn user(number: u128, login: &str) -> User {
        User {
            id: UserId::from_uuid(Uuid::from_u128(number)),
            login: login.to_owned(),
            name: String::new(),
            email: None,
            roles: Vec::new(),
            locale: Default::default(),
            time_zone: None,
            password_hash: None,
            external_id: None,
            blocked: false,
            last_sign_in_at: None,
            created_at: Timestamp::EPOCH,
            revision: 1,
        }
    }

    /// Whatever was read before, a reader gets what the bytes say, also when many records share a place.
    #[test]
    fn what_is_given_is_what_the_bytes_say() {
        for _ in 0..2 {
            for number in 0..2_000 {
                let before = user(number, "anna");
                let changed = User { blocked: true, ..before.clone() };
                for wanted in [&before, &changed] {
                    let bytes = encode(wanted).expect("it is plain");
                    assert_eq!(decode::<User>(&bytes).expect("it was just written"), *wanted);
                }
            }
        }
    }

    /// The second reading of the same bytes does not decode them.
    #[test]
    fn the_same_bytes_are_decoded_once() {
        let bytes = encode(&user(7, "boris")).expect("it is plain");
        let first: User = kept(&bytes, decode).expect("it was just written");
        let second: User = kept(&bytes, |_| Err(Error::Internal("decoded again".to_owned()))).expect("it is kept");
        assert_eq!(first, second);
    }

    /// Bytes that are nothing are refused each time, and nothing is kept of them.
    #[test]
    fn what_cannot_be_read_is_not_kept() {
        for _ in 0..2 {
            assert!(decode::<User>(&[1, 0xc1]).is_err());
        }
    }
}
