//! Who is asking, and what they may do.

use std::{net::IpAddr, sync::Arc};

use drover_protocol::{AccountId, JobId, KeyId, RobotId, UserId, manifest::Manifest};

use crate::{
    domain::{
        permission::{Permission, Permissions},
        role::{Grant, Limited},
    },
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

/// What a caller may reach of what its permissions are about.
#[derive(Clone, Debug)]
pub enum Reach {
    /// The key of a job: what its version declares in its manifest, by name, and nothing else.
    Manifest(Arc<Manifest>),
    /// A user, some of whose roles are limited: each permission reaches as far as the roles that give it.
    Roles(Arc<[Grant]>),
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
    /// Whether the permission reaches objects of this name, as far as roles limit it. Without a name: all there may be.
    pub fn reaches(&self, permission: Permission, noun: Limited, name: Option<&str>) -> bool {
        match &self.reach {
            Some(Reach::Roles(grants)) => grants.iter().any(|grant| grant.reaches(permission, noun, name)),
            Some(Reach::Manifest(_)) | None => true,
        }
    }

    /// Whether it may matter which object the permission is used for.
    pub fn is_limited(&self, permission: Permission, noun: Limited) -> bool {
        !self.reaches(permission, noun, None)
    }

    /// Refuses a caller whose roles limit the permission at all: for what is about everything at once.
    pub fn require_whole(&self, permission: Permission) -> Result<()> {
        self.require(permission)?;
        let nouns = [Limited::RobotGroups, Limited::Queues, Limited::Folders];
        let is_whole = |grant: &Grant| nouns.iter().all(|noun| grant.reaches(permission, *noun, None));
        match &self.reach {
            Some(Reach::Roles(grants)) if !grants.iter().any(is_whole) => Err(Error::Forbidden(format!(
                "the roles that give {} are limited to some objects, and this is about all of them",
                permission.as_str()
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a name for a new object that the caller would not reach.
    pub fn require_name(&self, permission: Permission, noun: Limited, name: &str) -> Result<()> {
        match self.reaches(permission, noun, Some(name)) {
            true => Ok(()),
            false => Err(Error::Forbidden(format!(
                "the roles that give {} are limited to other names than {name:?}",
                permission.as_str()
            ))),
        }
    }

    /// Refuses a queue that is out of the caller's reach.
    pub fn require_queue(&self, permission: Permission, name: &str) -> Result<()> {
        match &self.reach {
            Some(Reach::Manifest(manifest)) => declared("queues", &manifest.requires.queues, name),
            _ if self.reaches(permission, Limited::Queues, Some(name)) => Ok(()),
            _ => Err(Error::NotFound("queue")),
        }
    }

    /// Refuses a resource that is out of the caller's reach.
    pub fn require_resource(&self, name: &str) -> Result<()> {
        match &self.reach {
            Some(Reach::Manifest(manifest)) => declared("resources", &manifest.requires.resources, name),
            Some(Reach::Roles(_)) | None => Ok(()),
        }
    }

    /// Refuses a storage folder that is out of the caller's reach.
    pub fn require_storage(&self, permission: Permission, name: &str) -> Result<()> {
        match &self.reach {
            Some(Reach::Manifest(manifest)) => declared("storages", &manifest.requires.storages, name),
            _ if self.reaches(permission, Limited::Folders, Some(name)) => Ok(()),
            _ => Err(Error::NotFound("storage folder")),
        }
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
