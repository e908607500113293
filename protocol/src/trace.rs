//! How the work of a job is named in a trace (W3C Trace Context). Coordinator and agent derive the same names from the ids
//! of job and attempt: nobody has to hand them on, and whoever knows the job finds its trace.

use sha2::{Digest, Sha256};

use crate::JobId;

/// Names a span; 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl SpanId {
    /// The same for the same parts.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        parts.iter().for_each(|part| digest.update(part));
        let mut id = [0; 8];
        id.copy_from_slice(&digest.finalize()[..8]);
        Self(id)
    }

    /// The span of a job's process, one for each attempt.
    pub fn of_process(job: JobId, attempt: u32) -> Self {
        Self::of(&[job.uuid().as_bytes(), &attempt.to_be_bytes()])
    }

    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }
}

/// What a job's process finds in `TRACEPARENT`: the trace is named by the job's id, and what the process itself tells of
/// its work belongs below the span of its attempt.
pub fn trace_parent(job: JobId, attempt: u32) -> String {
    format!("00-{}-{:016x}-01", job.uuid().simple(), u64::from_be_bytes(SpanId::of_process(job, attempt).0))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// Agents of other versions derive it as well: it must not change.
    #[test]
    fn the_trace_context_of_an_attempt_is_always_the_same() {
        let job = JobId::from_uuid(Uuid::from_u128(0x0197_2a5c_1d1e_7000_8000_0000_0000_0001));
        assert_eq!(trace_parent(job, 1), "00-01972a5c1d1e70008000000000000001-4bc1b519c688f394-01");
        assert_ne!(SpanId::of_process(job, 1), SpanId::of_process(job, 2));
    }
}
