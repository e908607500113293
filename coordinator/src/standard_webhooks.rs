//! Whether a message was signed as Standard Webhooks does it (specification 1.0, symmetric), and just now. How messages
//! are signed is in `domain/webhook.rs`.

use drover_protocol::Timestamp;
use subtle::{Choice, ConstantTimeEq};

use crate::domain::webhook::signature;

/// How far the clocks of sender and receiver may differ.
pub const TOLERANCE_SECONDS: u64 = 300;
/// The length of new secrets, in bytes.
pub const SECRET_BYTES: usize = 32;
/// Signatures that one message may carry: one for each secret that is good while it is changed.
const MAX_SIGNATURES: usize = 16;

/// A message as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub id: &'a str,
    /// Seconds since 1970.
    pub timestamp: &'a str,
    /// Signatures with their versions, between spaces.
    pub signatures: &'a str,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Whether it was made just now by somebody who has the secret. Takes the same time whatever is wrong with a signature.
    pub fn is_signed(&self, secret: &[u8], now: Timestamp) -> bool {
        let Ok(seconds) = self.timestamp.parse::<u32>() else { return false };
        let made = Timestamp::EPOCH.plus_seconds(u64::from(seconds));
        if now.since(made).max(made.since(now)).as_secs() > TOLERANCE_SECONDS {
            return false;
        }
        let expected = signature(&[secret.to_vec()], self.id, i64::from(seconds), self.body);
        let given = self.signatures.split(' ').take(MAX_SIGNATURES);
        let equal = |text: &str| text.as_bytes().ct_eq(expected.as_bytes());
        given.fold(Choice::from(0), |found, text| found | equal(text)).into()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    /// The example that the libraries of Standard Webhooks test themselves with.
    const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: &str = "1614265330";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn is_signed(id: &str, signatures: &str, body: &[u8], seconds_later: i64) -> bool {
        let secret = STANDARD.decode(SECRET).expect("it is Base64");
        let now = Timestamp::from_millis((1_614_265_330 + seconds_later) * 1_000);
        Message { id, timestamp: TIMESTAMP, signatures, body }.is_signed(&secret, now)
    }

    #[test]
    fn the_published_example_is_signed() {
        assert!(is_signed(ID, SIGNATURE, BODY, 0));
        assert!(is_signed(ID, &format!("v1,AAAA v1a,{} {SIGNATURE}", &SIGNATURE[3..]), BODY, 0));
    }

    #[test]
    fn what_differs_in_anything_is_not_signed() {
        assert!(!is_signed("msg_other", SIGNATURE, BODY, 0));
        assert!(!is_signed(ID, SIGNATURE, b"{}", 0));
        for signatures in ["", "v1,", &SIGNATURE[3..], &SIGNATURE.replace("v1", "v2"), &SIGNATURE[..20]] {
            assert!(!is_signed(ID, signatures, BODY, 0), "{signatures}");
        }
    }

    #[test]
    fn an_old_message_is_refused_and_so_is_one_from_the_future() {
        let signed = [-301, -300, 300, 301].map(|seconds| is_signed(ID, SIGNATURE, BODY, seconds));
        assert_eq!(signed, [false, true, true, false]);
    }
}
