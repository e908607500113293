//! Who is asking, and what they may do.

use drover_protocol::{AccountId, JobId, KeyId, RobotId, UserId};

use crate::{
    domain::permission::{Permission, Permissions},
    error::{Error, Result},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    User { id: UserId, login: String },
    Robot { id: RobotId, name: String },
    Job { job: JobId, attempt: u32, robot: RobotId },
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub struct Caller {
    pub account: AccountId,
    pub actor: Actor,
    pub key_id: KeyId,
    pub permissions: Permissions,
}

impl Caller {
    /// Refuses with the name of the missing permission.
    pub fn require(&self, permission: Permission) -> Result<()> {
        if self.permissions.contains(permission) {
            return Ok(());
        }
        Err(Error::Forbidden(format!("this key lacks the permission {}", permission.as_str())))
    }

    /// How events and records name the caller.
    pub fn by(&self) -> String {
        match &self.actor {
            Actor::User { id, .. } => format!("user:{id}"),
            Actor::Robot { id, .. } => format!("robot:{id}"),
            Actor::Job { job, .. } => format!("job:{job}"),
        }
    }

    /// How people would name the caller.
    pub fn name(&self) -> String {
        match &self.actor {
            Actor::User { login, .. } => login.clone(),
            Actor::Robot { name, .. } => name.clone(),
            Actor::Job { job, .. } => format!("job {job}"),
        }
    }

    /// The robot whose key this is.
    pub fn robot(&self) -> Result<RobotId> {
        self.require(Permission::AgentWork)?;
        match self.actor {
            Actor::Robot { id, .. } => Ok(id),
            Actor::User { .. } | Actor::Job { .. } => {
                Err(Error::Forbidden("only a robot's own key can do this".to_owned()))
            }
        }
    }

    /// The user whose key this is.
    pub fn user(&self) -> Result<UserId> {
        match self.actor {
            Actor::User { id, .. } => Ok(id),
            Actor::Robot { .. } | Actor::Job { .. } => {
                Err(Error::Forbidden("only a user's key can do this".to_owned()))
            }
        }
    }
}
