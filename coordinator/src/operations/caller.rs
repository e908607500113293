//! Who is asking, and what they may do.

use std::{net::IpAddr, sync::Arc};

use drover_protocol::{AccountId, JobId, KeyId, RobotId, UserId, manifest::Manifest};

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
    /// What the caller may reach of what its permissions are about; absent: all of the account.
    pub reach: Option<Reach>,
    /// Where the call comes from, as far as that is known.
    pub address: Option<IpAddr>,
}

/// What the key of a job may reach: what its version declares in its manifest, by name, and nothing else.
#[derive(Clone, Debug)]
pub struct Reach(Arc<Manifest>);

impl Reach {
    pub fn of_manifest(manifest: Arc<Manifest>) -> Self {
        Self(manifest)
    }
}

/// The refusal of what a manifest does not declare says how to declare it.
fn declared(field: &str, names: &[String], name: &str) -> Result<()> {
    if names.iter().any(|declared| declared == name) {
        return Ok(());
    }
    Err(Error::Forbidden(format!(
        "the process version does not declare {name:?}; add it to {field} under [requires] in its process.toml"
    )))
}

impl Caller {
    /// Refuses a queue that is out of the caller's reach.
    pub fn require_queue(&self, name: &str) -> Result<()> {
        self.reach.as_ref().map_or(Ok(()), |Reach(manifest)| declared("queues", &manifest.requires.queues, name))
    }

    /// Refuses a resource that is out of the caller's reach.
    pub fn require_resource(&self, name: &str) -> Result<()> {
        self.reach.as_ref().map_or(Ok(()), |Reach(manifest)| declared("resources", &manifest.requires.resources, name))
    }

    /// Refuses a storage folder that is out of the caller's reach.
    pub fn require_storage(&self, name: &str) -> Result<()> {
        self.reach.as_ref().map_or(Ok(()), |Reach(manifest)| declared("storages", &manifest.requires.storages, name))
    }

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
