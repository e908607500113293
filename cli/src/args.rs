//! The command line as a whole. The arguments of each noun stand with its commands.

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::commands::{
    account, alert, audit, backup, changes, file, group, job, join_token, key, keys, login, logs, process, queue,
    resource, robot, role, storage, task, trigger, user, webhook,
};

const AFTER_HELP: &str = "\
Exit codes:
  0    done; with 'job start --follow' and 'job logs --follow': the job succeeded
  1    refused by the coordinator, not reachable, or a file could not be read or written
  2    wrong usage
  10   the job failed             (with --follow)
  11   the job was stopped        (with --follow)
  12   the job was aborted        (with --follow)
  13   the job ran out of time    (with --follow)
  14   the job was lost           (with --follow)
  130  left by Ctrl-C, the job goes on

Where a command downloads or exports, - means standard output: nothing but the file
goes there then, and what the command says goes to standard error. A file appears
under its name only when it is whole; links are followed, devices and pipes written
as they are.

The coordinator is found by --server and --key, else by DROVER_URL and DROVER_KEY,
else by the login saved by 'drover login'. Certificates of a private authority:
SSL_CERT_FILE. A proxy: HTTPS_PROXY, NO_PROXY.";

/// Starts, watches and steers the software robots of a Drover coordinator.
#[derive(Parser)]
#[command(name = "drover", version, after_help = AFTER_HELP, arg_required_else_help = true, max_term_width = 110)]
pub struct Args {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the coordinator is, and how answers are shown.
#[derive(ClapArgs)]
pub struct Connection {
    /// Address of the coordinator, without /api/v1
    #[arg(long, global = true, env = "DROVER_URL", value_name = "URL", hide_env_values = true)]
    pub server: Option<String>,
    /// API key
    #[arg(long, global = true, env = "DROVER_KEY", value_name = "KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Print exactly the JSON that the API answers, for scripts; a long list in pages, one per line
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Sign in: check address and key and save them for this person
    Login(login::LoginArgs),
    /// Remove the saved login
    Logout,
    /// Which coordinator this is, and who is asking
    #[command(visible_alias = "whoami")]
    Status,
    /// Processes and their versions
    #[command(subcommand)]
    Process(process::ProcessCommand),
    /// Jobs: start, watch, stop
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Queues of tasks
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Tasks: add, import, watch, try again, export
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Logs of all jobs: search, follow, export, write
    #[command(subcommand)]
    Logs(logs::LogsCommand),
    /// Robots
    #[command(subcommand)]
    Robot(robot::RobotCommand),
    /// Robot groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Join tokens, with which agents become robots
    #[command(subcommand)]
    JoinToken(join_token::JoinTokenCommand),
    /// Storage: folders of files
    #[command(subcommand)]
    Storage(storage::StorageCommand),
    /// Files of storage folders
    #[command(subcommand)]
    File(file::FileCommand),
    /// Triggers: start jobs at times, or keep them running
    #[command(subcommand)]
    Trigger(trigger::TriggerCommand),
    /// Named values for processes: texts, numbers, credentials, secrets, calendars
    #[command(subcommand)]
    Resource(resource::ResourceCommand),
    /// Webhooks: addresses outside to which events are sent
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// Alerts: what people want to be told of, and what was raised
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// Follow the changes of objects as they happen
    Events(changes::EventsArgs),
    /// How the fleet is: robots, jobs, queues, alerts, next fires
    Overview,
    /// The audit trail: who did what
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Users of the account, and your own password
    #[command(subcommand)]
    User(user::UserCommand),
    /// Roles: what users may do, and to what
    #[command(subcommand)]
    Role(role::RoleCommand),
    /// Your account; and all accounts, for those who run the coordinator
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Your own API key
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Further named API keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Write a backup of the running coordinator to a file
    Backup(backup::BackupArgs),
    /// Print the completions of a shell
    Completions {
        /// bash, zsh, fish, powershell or elvish
        shell: clap_complete::Shell,
    },
}
