//! The name of one attempt of one job: what journal, run folders, work folders and events are keyed by.

use std::{fmt, str::FromStr};

use drover_protocol::JobId;
use serde::{Deserialize, Serialize};

/// One attempt of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    pub job_id: JobId,
    pub attempt: u32,
}

impl fmt::Display for AttemptId {
    /// `<job id>-<attempt>`, also the name of its files and folders.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.job_id, self.attempt)
    }
}

/// The text is not `<job id>-<attempt>`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an attempt")]
pub struct NotAnAttempt;

impl FromStr for AttemptId {
    type Err = NotAnAttempt;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (job, attempt) = text.rsplit_once('-').ok_or(NotAnAttempt)?;
        let id = Self {
            job_id: job.parse().map_err(|_| NotAnAttempt)?,
            attempt: attempt.parse().map_err(|_| NotAnAttempt)?,
        };
        // Only the one canonical spelling: "+1" or "01" would be other files.
        if id.to_string() == text { Ok(id) } else { Err(NotAnAttempt) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_name_is_read_back() {
        let name = "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f-3";
        assert_eq!(name.parse::<AttemptId>().map(|id| id.to_string()), Ok(name.to_owned()));
        for bad in ["", "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f", "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f-03", "../x-1"] {
            assert_eq!(bad.parse::<AttemptId>(), Err(NotAnAttempt), "{bad}");
        }
    }
}
