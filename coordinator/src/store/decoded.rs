//! Records that were read a moment ago, in the form in which they are used.
//!
//! Keys, users and queues are read at each request and hardly ever change, and the counters of a queue are read again by the
//! thread that has just written them; reading their stored form costs more than finding it. What was made of the same bytes
//! is given again, so that nothing here can be out of date: a record that has changed has other bytes. Each thread has its
//! own, and none waits for another.

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
    let place = place_of(bytes);
    let known = KEPT.with_borrow(|all| {
        let kept = all[place].as_ref().filter(|kept| kept.of == TypeId::of::<R>() && *kept.bytes == *bytes)?;
        kept.record.downcast_ref::<R>().cloned()
    });
    if let Some(record) = known {
        return Ok(record);
    }
    let record = decode(bytes)?;
    put(place, bytes, &record);
    Ok(record)
}

/// The bytes of a record that is about to be written, and will be read again.
pub fn keep<R: Record>(bytes: &[u8], record: &R) {
    if bytes.len() <= MAX_BYTES {
        put(place_of(bytes), bytes, record);
    }
}

fn place_of(bytes: &[u8]) -> usize {
    crc32c::crc32c(bytes) as usize % PLACES
}

fn put<R: Record>(place: usize, bytes: &[u8], record: &R) {
    let kept = Kept { of: TypeId::of::<R>(), bytes: bytes.into(), record: Box::new(record.clone()) };
    KEPT.with_borrow_mut(|all| all[place] = Some(kept));
}

#[cfg(test)]
mod tests {
    use drover_protocol::{Timestamp, UserId};
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::account::User,
        error::Error,
        store::table::{decode, decode_anew, encode},
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
                let written = [&before, &changed].map(|user| encode(user).expect("it is plain"));
                for (bytes, wanted) in written.iter().zip([&before, &changed]) {
                    assert_eq!(decode::<User>(bytes).expect("it was just written"), *wanted);
                    assert_eq!(decode_anew::<User>(bytes).expect("it was just written"), *wanted);
                }
            }
        }
    }

    /// What was written, or read once, is not decoded when the same bytes are read.
    #[test]
    fn the_same_bytes_are_decoded_once() {
        let written = user(7, "boris");
        let bytes = encode(&written).expect("it is plain");
        let again = || kept(&bytes, |_| Err(Error::Internal("decoded again".to_owned())));
        assert_eq!(again(), Ok(written.clone()));
        let elsewhere = std::thread::scope(|scope| {
            let reader = scope.spawn(|| (kept(&bytes, decode_anew::<User>), again()));
            reader.join().expect("it does not panic")
        });
        assert_eq!(elsewhere, (Ok(written.clone()), Ok(written)));
    }

    /// Bytes that are nothing are refused each time, and nothing is kept of them.
    #[test]
    fn what_cannot_be_read_is_not_kept() {
        for _ in 0..2 {
            assert!(decode::<User>(&[1, 0xc1]).is_err());
        }
    }
}
