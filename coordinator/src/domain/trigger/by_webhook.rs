//! What a trigger that is called from outside is called by.

use drover_protocol::{Timestamp, TriggerId, trigger::ByWebhook};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// The longest time for which a secret that was replaced may still be good: a week.
pub const MAX_GRACE_SECONDS: u64 = 604_800;
/// The longest `webhook-id` and `Idempotency-Key`.
pub const MAX_MESSAGE_ID_CHARS: usize = 256;

/// A secret that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldSecret {
    #[serde(with = "serde_bytes")]
    pub secret_sealed: Vec<u8>,
    pub until: Timestamp,
}

/// The address and the secrets of a webhook. The trail of audit masks members by these names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub settings: ByWebhook,
    /// By which the last part of the address is found.
    #[serde(with = "serde_bytes")]
    pub token_hash: [u8; 32],
    #[serde(with = "serde_bytes")]
    pub token_sealed: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub secret_sealed: Vec<u8>,
    pub old_secret: Option<OldSecret>,
}

/// The occasion of something that must fire a trigger once, however often it is told: a message by its id, say. An id of
/// the eighth version says nothing but what it was made of, so that it is told from those that are made anew each time.
pub fn occasion_of(trigger: TriggerId, what: &str, id: &[u8]) -> Uuid {
    let mut digest = Sha256::new();
    digest.update(trigger.uuid().as_bytes());
    digest.update(what.as_bytes());
    digest.update([0]);
    digest.update(id);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// Whether an occasion may fire only once, at whatever instant.
pub fn is_once(occasion: Uuid) -> bool {
    occasion.get_version_num() == 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occasion_is_that_of_its_trigger_and_message() {
        let [one, other] = [1, 2].map(|id| TriggerId::from_uuid(Uuid::from_u128(id)));
        let occasion = occasion_of(one, "message", b"a");
        assert_eq!(occasion, occasion_of(one, "message", b"a"));
        assert!(is_once(occasion) && !is_once(Uuid::nil()));
        let others =
            [occasion_of(other, "message", b"a"), occasion_of(one, "message", b"b"), occasion_of(one, "e", b"a")];
        assert!(!others.contains(&occasion));
    }
}
