//! `drover-agent join`: a join token is exchanged for a robot and its key.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use drover_agent::{
    config::Settings,
    coordinator::{CallError, Coordinator},
    daemon::HostProbe,
    durable,
    host::SystemProbe,
    identity::{self, Identity},
    transport::{HttpTransport, server_root},
};
use drover_protocol::{agent::Join, problem::Code};

#[derive(Args)]
pub struct Arguments {
    /// Address of the coordinator, such as https://drover.example.org (default: the setting "server").
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// A join token, as `drover join-token create` makes it.
    #[arg(long, env = "DROVER_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// Name for a new robot (default: the host's name).
    #[arg(long)]
    name: Option<String>,
}

/// Joins, keeps the key, and says what has happened.
pub async fn join(settings: &Settings, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let given = arguments.server.as_deref().unwrap_or(&settings.server);
    if given.is_empty() {
        bail!("which coordinator? Give its address with --server URL");
    }
    let server = server_root(given)?;
    let state = &settings.state_dir;
    durable::create_private_folder(state).with_context(|| {
        format!("the state folder {} cannot be made; choose another with --state DIR", state.display())
    })?;
    tighten(state);
    let before = Identity::load(state).context("agent.json in the state folder cannot be read")?;
    let machine_id = identity::machine_id(&settings.machine_id, state).context("the machine id cannot be found out")?;
    let transport = HttpTransport::new(&super::connection(settings, &server))?;
    let coordinator = Coordinator::new(transport, None, 0);
    let host = SystemProbe::new(settings, &server).host();
    let request = Join {
        token: arguments.token.trim().to_owned(),
        machine_id: machine_id.clone(),
        name: arguments.name.clone(),
        host,
    };
    let joined = coordinator.join(&request).await.map_err(|error| explain(&error, &server))?;
    let identity = Identity {
        server: server.clone(),
        robot_id: joined.robot.id,
        robot_name: joined.robot.name.clone(),
        key: joined.key,
        machine_id,
    };
    identity
        .save(state)
        .context("the robot's key cannot be kept in the state folder; join again when that is mended")?;
    match before {
        Some(before) if before.robot_id == identity.robot_id => {
            println!(
                "joined {server} again as the same robot \"{}\" ({}), with a new key",
                identity.robot_name, identity.robot_id
            );
        }
        Some(before) => println!(
            "joined {server} as robot \"{}\" ({}); before, this folder was robot \"{}\" of {}",
            identity.robot_name, identity.robot_id, before.robot_name, before.server
        ),
        None => println!("joined {server} as robot \"{}\" ({})", identity.robot_name, identity.robot_id),
    }
    if identity::running_agent(state).ok().flatten().is_some() {
        println!("the agent that runs takes the new key within 10 seconds");
        return Ok(ExitCode::SUCCESS);
    }
    println!("start it with: drover-agent run --state {}", state.display());
    Ok(ExitCode::SUCCESS)
}

/// A folder that was made for the agent, and so is empty, is closed to others. One with other things in it is left as it is: what
/// the agent puts there is closed anyway.
fn tighten(state: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::read_dir(state).is_ok_and(|mut entries| entries.next().is_none()) {
        let _ = std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700));
    }
}

/// What went wrong and what helps.
fn explain(error: &CallError, server: &str) -> anyhow::Error {
    match error {
        CallError::Unauthenticated(detail) => anyhow::anyhow!(
            "the join token is not accepted: {detail}. It may be mistyped, expired or used up; make a new one with `drover join-token create`"
        ),
        CallError::Refused { problem } | CallError::Unread { problem } => match problem.code {
            Code::NotFound => {
                anyhow::anyhow!("{server} does not know how to join: {}; is the address right?", problem.detail)
            }
            _ => {
                let fields = problem.errors.iter().map(|field| format!("; {}: {}", field.pointer, field.detail));
                anyhow::anyhow!("the coordinator refuses: {}{}", problem.detail, fields.collect::<String>())
            }
        },
        CallError::Unreachable { why, .. } => {
            let hint = if why.contains("certificate") || why.contains("UnknownIssuer") {
                "the server's certificate is not trusted; set ca_file to the PEM file of its certificate authority"
            } else if why.contains("dns") || why.contains("lookup") {
                "the name cannot be resolved; check the address"
            } else if why.contains("refused") {
                "nothing listens there; check the address and the port, and whether the coordinator runs"
            } else if why.contains("without a description") || why.contains("not understood") {
                "what answers there is not a Drover coordinator; check the address, and a proxy in between"
            } else {
                "`drover-agent diagnose` may tell more"
            };
            anyhow::anyhow!("{server} cannot be joined: {why}. Hint: {hint}")
        }
    }
}
