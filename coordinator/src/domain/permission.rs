//! Permissions (`noun:verb`) and the built-in roles.

use drover_protocol::change::Noun;
use enumset::{EnumSet, EnumSetType};
use serde::{Deserialize, Serialize};

macro_rules! permissions {
    ($($name:ident = $text:literal,)*) => {
        /// One thing that a caller may do.
        #[derive(EnumSetType, Debug, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[enumset(serialize_repr = "list")]
        pub enum Permission { $(#[serde(rename = $text)] $name,)* }

        impl Permission {
            pub const ALL: &'static [Permission] = &[$(Permission::$name),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Permission::$name => $text),* }
            }

            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|permission| permission.as_str() == text)
            }
        }
    };
}

permissions! {
    AccountRead = "account:read",
    AccountUpdate = "account:update",
    KeyManage = "key:manage_keys",
    RobotRead = "robot:read",
    RobotCreate = "robot:create",
    RobotUpdate = "robot:update",
    RobotDelete = "robot:delete",
    RobotPause = "robot:pause",
    RobotGroupRead = "robot_group:read",
    RobotGroupCreate = "robot_group:create",
    RobotGroupUpdate = "robot_group:update",
    RobotGroupDelete = "robot_group:delete",
    JoinTokenRead = "join_token:read",
    JoinTokenCreate = "join_token:create",
    JoinTokenDelete = "join_token:delete",
    ProcessRead = "process:read",
    ProcessCreate = "process:create",
    ProcessUpdate = "process:update",
    ProcessDelete = "process:delete",
    VersionRead = "version:read",
    VersionCreate = "version:create",
    VersionUpdate = "version:update",
    VersionDelete = "version:delete",
    VersionActivate = "version:activate",
    JobRead = "job:read",
    JobStart = "job:start",
    JobStop = "job:stop",
    JobRetry = "job:retry",
    JobClose = "job:close",
    JobDelete = "job:delete",
    LogRead = "log:read",
    LogWrite = "log:write",
    LogDelete = "log:delete",
    StorageRead = "storage:read",
    QueueRead = "queue:read",
    QueueCreate = "queue:create",
    QueueUpdate = "queue:update",
    QueueDelete = "queue:delete",
    QueuePause = "queue:pause",
    TaskRead = "task:read",
    TaskCreate = "task:create",
    TaskTake = "task:take",
    TaskUpdate = "task:update",
    TaskRetry = "task:retry",
    TaskDelete = "task:delete",
    ResourceRead = "resource:read",
    ResourceCreate = "resource:create",
    ResourceUpdate = "resource:update",
    ResourceDelete = "resource:delete",
    ResourceReadValue = "resource:read_value",
    ResourceWriteValue = "resource:write_value",
    AuditRead = "audit:read",
    StorageWrite = "storage:write",
    StorageCreate = "storage:create",
    StorageUpdate = "storage:update",
    StorageDelete = "storage:delete",
    TriggerRead = "trigger:read",
    TriggerCreate = "trigger:create",
    TriggerUpdate = "trigger:update",
    TriggerDelete = "trigger:delete",
    TriggerFire = "trigger:fire",
    WebhookRead = "webhook:read",
    WebhookCreate = "webhook:create",
    WebhookUpdate = "webhook:update",
    WebhookDelete = "webhook:delete",
    WebhookSend = "webhook:send",
    AlertRead = "alert:read",
    AlertCreate = "alert:create",
    AlertUpdate = "alert:update",
    AlertDelete = "alert:delete",
    AlertAcknowledge = "alert:acknowledge",
    SystemBackup = "system:backup",
    AgentWork = "agent:work",
    UserRead = "user:read",
    UserCreate = "user:create",
    UserUpdate = "user:update",
    UserDelete = "user:delete",
    RoleRead = "role:read",
    RoleCreate = "role:create",
    RoleUpdate = "role:update",
    RoleDelete = "role:delete",
    SystemAccounts = "system:accounts",
}

/// What a caller must have to see objects of this kind, and so to be told of their changes.
pub fn to_see(noun: Noun) -> Permission {
    match noun {
        Noun::Account => Permission::AccountRead,
        Noun::User => Permission::UserRead,
        Noun::Key => Permission::KeyManage,
        Noun::JoinToken => Permission::JoinTokenRead,
        Noun::Robot => Permission::RobotRead,
        Noun::RobotGroup => Permission::RobotGroupRead,
        Noun::Process => Permission::ProcessRead,
        Noun::Version => Permission::VersionRead,
        Noun::Job => Permission::JobRead,
        Noun::Queue => Permission::QueueRead,
        Noun::Task => Permission::TaskRead,
        Noun::Trigger => Permission::TriggerRead,
        Noun::Resource => Permission::ResourceRead,
        Noun::Storage | Noun::File => Permission::StorageRead,
        Noun::Webhook => Permission::WebhookRead,
        Noun::Alert | Noun::RaisedAlert => Permission::AlertRead,
    }
}

/// Kept as a list of their texts.
pub type Permissions = EnumSet<Permission>;

/// What concerns the coordinator as a whole: only users of the account that runs it may have it.
pub const SYSTEM_PERMISSIONS: Permissions = enumset::enum_set!(Permission::SystemBackup | Permission::SystemAccounts);

/// What a permission, `noun:*` or `*` stands for; nothing if there is no such thing. What only agents do is in no pattern.
pub fn matching(pattern: &str) -> Option<Permissions> {
    let of_people = Permissions::all() - Permission::AgentWork;
    if pattern == "*" {
        return Some(of_people);
    }
    match pattern.strip_suffix(":*") {
        Some(noun) => {
            let is_of = |permission: &Permission| permission.as_str().split(':').next() == Some(noun);
            let found: Permissions = of_people.iter().filter(is_of).collect();
            (!found.is_empty()).then_some(found)
        }
        None => Permission::parse(pattern).map(Permissions::only),
    }
}

/// The built-in roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything that people do.
    Admin,
    /// Runs the fleet: starts and ends jobs, pauses robots, admits hosts.
    Operator,
    /// Makes processes and tries them out.
    Developer,
    /// Looks, and changes nothing.
    Viewer,
    /// What an agent may do with its own key, and saying something by itself; nothing else.
    Robot,
}

impl Role {
    pub const ALL: [Role; 5] = [Self::Admin, Self::Operator, Self::Developer, Self::Viewer, Self::Robot];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Developer => "developer",
            Self::Viewer => "viewer",
            Self::Robot => "robot",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    pub const fn description(self) -> &'static str {
        match self {
            Self::Admin => "Everything that people do",
            Self::Operator => "Runs the fleet: starts and ends jobs, pauses robots, admits hosts",
            Self::Developer => "Makes processes and tries them out",
            Self::Viewer => "Looks, and changes nothing",
            Self::Robot => "What an agent does with its own key",
        }
    }

    pub fn permissions(self) -> Permissions {
        use Permission as P;
        let look = [
            P::AccountRead,
            P::RobotRead,
            P::RobotGroupRead,
            P::ProcessRead,
            P::VersionRead,
            P::JobRead,
            P::LogRead,
            P::StorageRead,
            P::QueueRead,
            P::TaskRead,
            P::ResourceRead,
            P::TriggerRead,
            P::AlertRead,
        ];
        let more: &[P] = match self {
            Self::Robot => return P::AgentWork | P::LogWrite,
            Self::Admin => return Permissions::all() - P::AgentWork,
            Self::Viewer => &[],
            Self::Operator => &[
                P::LogWrite,
                P::JobStart,
                P::JobStop,
                P::JobRetry,
                P::JobClose,
                P::JobDelete,
                P::RobotCreate,
                P::RobotUpdate,
                P::RobotPause,
                P::RobotGroupCreate,
                P::RobotGroupUpdate,
                P::JoinTokenRead,
                P::JoinTokenCreate,
                P::JoinTokenDelete,
                P::VersionActivate,
                P::QueuePause,
                P::TaskCreate,
                P::TaskTake,
                P::TaskUpdate,
                P::TaskRetry,
                P::TaskDelete,
                P::StorageWrite,
                P::StorageCreate,
                P::StorageUpdate,
                P::StorageDelete,
                P::TriggerCreate,
                P::TriggerUpdate,
                P::TriggerDelete,
                P::TriggerFire,
                P::WebhookRead,
                P::WebhookSend,
                P::AlertCreate,
                P::AlertUpdate,
                P::AlertDelete,
                P::AlertAcknowledge,
            ],
            Self::Developer => &[
                P::LogWrite,
                P::JobStart,
                P::JobStop,
                P::JobRetry,
                P::ProcessCreate,
                P::ProcessUpdate,
                P::ProcessDelete,
                P::VersionCreate,
                P::VersionUpdate,
                P::VersionDelete,
                P::VersionActivate,
                P::QueueCreate,
                P::QueueUpdate,
                P::QueueDelete,
                P::QueuePause,
                P::TaskCreate,
                P::TaskTake,
                P::TaskUpdate,
                P::TaskRetry,
                P::TaskDelete,
                P::ResourceCreate,
                P::ResourceUpdate,
                P::ResourceDelete,
                P::ResourceWriteValue,
                P::StorageWrite,
                P::StorageCreate,
                P::StorageUpdate,
                P::StorageDelete,
                P::TriggerCreate,
                P::TriggerUpdate,
                P::TriggerDelete,
                P::TriggerFire,
                P::WebhookRead,
                P::WebhookSend,
                P::AlertAcknowledge,
            ],
        };
        look.iter().chain(more).copied().collect()
    }
}

/// What the key of a job may do. Which queues, resources and storage folders that is about, its manifest says.
pub fn of_jobs() -> Permissions {
    use Permission as P;
    // Its own job and the log of that; `operations` holds it to them.
    P::JobRead
        | P::LogRead
        | P::LogWrite
        | P::QueueRead
        | P::TaskRead
        | P::TaskCreate
        | P::TaskTake
        | P::ResourceReadValue
        | P::ResourceWriteValue
        | P::StorageRead
        | P::StorageWrite
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles_but_admin() -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(|role| *role != Role::Admin)
    }

    /// A pattern grows with the permissions there are, and never into what only agents do.
    #[test]
    fn patterns_stand_for_what_people_do() {
        assert_eq!(matching("*"), Some(Role::Admin.permissions()));
        assert_eq!(matching("agent:*"), None);
        assert_eq!(matching("queue:pause"), Some(Permissions::only(Permission::QueuePause)));
        let queues = matching("queue:*").expect("queues have permissions");
        assert_eq!(queues.len(), 5);
        assert!(queues.iter().all(|permission| permission.as_str().starts_with("queue:")));
        for bad in ["", "queue", "queue*", "queue:p*", "*:read", "nothing:*", "queue:*:*"] {
            assert_eq!(matching(bad), None, "{bad}");
        }
    }

    /// Nobody's role may be widened by accident: a person's role never holds what only agents do, and roles nest.
    #[test]
    fn roles_are_as_they_are_meant() {
        let viewer = Role::Viewer.permissions();
        for role in [Role::Admin, Role::Operator, Role::Developer] {
            assert!(role.permissions().is_superset(viewer), "{}", role.as_str());
            assert!(!role.permissions().contains(Permission::AgentWork), "{}", role.as_str());
            assert!(Role::Admin.permissions().is_superset(role.permissions()), "{}", role.as_str());
        }
        assert!(!roles_but_admin().any(|role| role.permissions().contains(Permission::ResourceReadValue)));
        assert!(viewer.iter().all(|permission| permission.as_str().ends_with(":read")));
    }
}
