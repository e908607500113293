//! `drover-agent diagnose`: what could keep the agent from working, each in a line with the remedy.

use std::{
    net::{TcpStream, ToSocketAddrs},
    os::unix::fs::PermissionsExt,
    process::ExitCode,
    time::Duration,
};

use drover_agent::{
    clock::wall_clock,
    config::Settings,
    coordinator::{CallError, Coordinator},
    durable,
    host::disk_free_bytes,
    identity::{self, Identity},
    launcher::UnixLauncher,
    tool::has_program,
    transport::{Body, HttpTransport, Request, Transport, server_root},
};
use drover_protocol::agent::Next;

const LOW_DISK_BYTES: u64 = 1024 * 1024 * 1024;
const MOST_CLOCK_SKEW_SECONDS: i64 = 5;

enum Finding {
    Ok,
    Warn,
    Fail,
}

/// Prints findings as they are made.
struct Report {
    failed: bool,
}

impl Report {
    fn line(&mut self, finding: Finding, what: &str, text: impl AsRef<str>) {
        let word = match finding {
            Finding::Ok => "OK  ",
            Finding::Warn => "WARN",
            Finding::Fail => {
                self.failed = true;
                "FAIL"
            }
        };
        println!("{word}  {what}: {}", text.as_ref());
    }
}

/// Looks at everything; exit code 1 if anything failed.
pub async fn diagnose(settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut report = Report { failed: false };
    let identity = state_folder(settings, &mut report);
    let server = match (&identity, settings.server.is_empty()) {
        (_, false) => server_root(&settings.server).ok(),
        (Some(identity), true) => Some(identity.server.clone()),
        (None, true) => None,
    };
    match server {
        Some(server) => network(settings, &server, identity.as_ref(), &mut report).await,
        None => {
            report.line(Finding::Warn, "server", "no address is known; set \"server\" or join, then diagnose again")
        }
    }
    programs(settings, &mut report);
    if let Err(error) = super::account(settings) {
        report.line(Finding::Fail, "run_as", format!("{error:#}"));
    }
    Ok(if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn state_folder(settings: &Settings, report: &mut Report) -> Option<Identity> {
    let state = &settings.state_dir;
    match std::fs::metadata(state) {
        Err(error) => {
            let text = format!(
                "{} cannot be used ({error}); it is made by `drover-agent join`, or choose another with --state DIR",
                state.display()
            );
            report.line(Finding::Fail, "state folder", text);
            return None;
        }
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            report.line(
                Finding::Warn,
                "state folder",
                format!("{} is open to other accounts; run: chmod 700 {0}", state.display()),
            );
        }
        Ok(_) => report.line(Finding::Ok, "state folder", state.display().to_string()),
    }
    let probe = state.join("diagnose.tmp");
    match durable::write(&probe, b"probe").and_then(|()| durable::remove(&probe)) {
        Ok(()) => report.line(Finding::Ok, "writing", "files can be written and flushed"),
        Err(error) => report.line(
            Finding::Fail,
            "writing",
            format!("{error}; run as the account that the agent runs as, or mend its rights"),
        ),
    }
    let free = disk_free_bytes(state);
    let finding = if free < LOW_DISK_BYTES { Finding::Warn } else { Finding::Ok };
    report.line(
        finding,
        "disk",
        format!("{} MiB free; below 1024 MiB packages and logs may find no room", free / 1024 / 1024),
    );
    match identity::running_agent(state) {
        Ok(Some(pid)) => report.line(Finding::Ok, "agent", format!("runs as process {pid}")),
        Ok(None) => report.line(
            Finding::Warn,
            "agent",
            "does not run with this state folder; start it with `drover-agent run` or the service",
        ),
        Err(error) => report.line(Finding::Fail, "agent", format!("the lock file cannot be read: {error}")),
    }
    match Identity::load(state) {
        Ok(Some(identity)) => {
            report.line(Finding::Ok, "joined", format!("{} as robot \"{}\"", identity.server, identity.robot_name));
            Some(identity)
        }
        Ok(None) => {
            report.line(Finding::Fail, "joined", "not yet; run: drover-agent join --server URL --token T");
            None
        }
        Err(error) => {
            report.line(Finding::Fail, "joined", format!("agent.json cannot be read: {error}; join again"));
            None
        }
    }
}

async fn network(settings: &Settings, server: &str, identity: Option<&Identity>, report: &mut Report) {
    let Ok(url) = url::Url::parse(server) else { return };
    let (host, port) = (url.host_str().unwrap_or_default().to_owned(), url.port_or_known_default().unwrap_or(443));
    let proxied = !settings.proxy.is_empty()
        || ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
    if proxied {
        report.line(Finding::Ok, "proxy", "one is set, so name and port of the coordinator are not tried directly");
    } else {
        match (host.trim_matches(['[', ']']), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if !addresses.is_empty() => {
                report.line(Finding::Ok, "DNS", format!("{host} is {}", addresses[0].ip()));
                match addresses
                    .iter()
                    .find_map(|address| TcpStream::connect_timeout(address, Duration::from_secs(5)).ok())
                {
                    Some(_) => report.line(Finding::Ok, "TCP", format!("port {port} is open")),
                    None => report.line(
                        Finding::Fail,
                        "TCP",
                        format!("nothing answers at {host}:{port}; check the coordinator, and firewalls in between"),
                    ),
                }
            }
            _ => report.line(
                Finding::Fail,
                "DNS",
                format!("the name {host} cannot be resolved; check the address and the host's DNS"),
            ),
        }
    }
    let transport = match HttpTransport::new(&super::connection(settings, server)) {
        Ok(transport) => transport,
        Err(error) => return report.line(Finding::Fail, "HTTP", error.to_string()),
    };
    health(&transport, report).await;
    if let Some(identity) = identity {
        key(transport, identity, report).await;
    }
}

async fn health(transport: &HttpTransport, report: &mut Report) {
    let request = Request {
        method: http::Method::GET,
        path: "/healthz".to_owned(),
        key: None,
        headers: http::HeaderMap::new(),
        body: Body::Empty,
        timeout: Some(Duration::from_secs(15)),
    };
    let answer = match transport.call(request).await {
        Ok(answer) => answer,
        Err(error) => {
            let text = format!("{error}; for a certificate that is not trusted set ca_file, behind a proxy set proxy");
            return report.line(Finding::Fail, "HTTP", text);
        }
    };
    if !answer.status.is_success() {
        let text = format!("/healthz answers {}; is this the coordinator, and is it well?", answer.status.as_u16());
        return report.line(Finding::Fail, "HTTP", text);
    }
    report.line(Finding::Ok, "HTTP", "the coordinator answers");
    let date = answer.headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
    match date.and_then(parse_http_date) {
        None => report.line(
            Finding::Ok,
            "clock",
            "the coordinator does not tell its time here; the difference is made up for anyway",
        ),
        Some(theirs) => {
            let skew = theirs - wall_clock().millis() / 1000;
            if skew.abs() > MOST_CLOCK_SKEW_SECONDS {
                report.line(
                    Finding::Warn,
                    "clock",
                    format!(
                        "the host is {} seconds {} the coordinator; switch time synchronisation on",
                        skew.abs(),
                        if skew > 0 { "behind" } else { "ahead of" }
                    ),
                );
            } else {
                report.line(Finding::Ok, "clock", "host and coordinator agree");
            }
        }
    }
}

async fn key(transport: HttpTransport, identity: &Identity, report: &mut Report) {
    // Asks for nothing and holds nothing: the one call that proves the key without changing anything for running jobs.
    let coordinator = Coordinator::new(transport, Some(&identity.key), 0);
    match coordinator.next(&Next { free: 0, wait_seconds: 0, known: Vec::new() }).await {
        Ok(_) => report.line(Finding::Ok, "key", "the coordinator accepts it"),
        Err(CallError::Unauthenticated(detail)) => {
            report.line(Finding::Fail, "key", format!("{detail}; join again with a new token"))
        }
        Err(error) => report.line(Finding::Warn, "key", format!("it could not be tried: {error}")),
    }
}

fn programs(settings: &Settings, report: &mut Report) {
    match UnixLauncher::check() {
        Ok(()) => report.line(Finding::Ok, "processes", "the host tells when one ends"),
        Err(error) => report.line(Finding::Fail, "processes", format!("{} ({error})", super::UNWATCHED)),
    }
    let python = std::path::Path::new(&settings.python);
    if has_program(&settings.python) || (python.is_absolute() && python.exists()) {
        report.line(Finding::Ok, "python", format!("\"{}\" is there", settings.python));
    } else {
        report.line(
            Finding::Warn,
            "python",
            format!(
                "\"{}\" is not on the PATH; processes in Python will fail; install it or set \"python\"",
                settings.python
            ),
        );
    }
    for (name, why) in [
        ("uv", "environments are then built by pip, which is slower"),
        ("bash", "processes that are bash scripts will fail"),
    ] {
        if has_program(name) {
            report.line(Finding::Ok, name, "is there");
        } else {
            let finding = if name == "uv" { Finding::Ok } else { Finding::Warn };
            report.line(finding, name, format!("is not on the PATH; {why}"));
        }
    }
}

/// Seconds since 1970 of a date such as `Mon, 23 Nov 2026 08:26:15 GMT`.
fn parse_http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split_once(", ")?.1.split(' ');
    let day: u32 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? + 1;
    let (year, time) = (parts.next()?, parts.next()?);
    let time: drover_protocol::Timestamp = format!("{year}-{month:02}-{day:02}T{time}Z").parse().ok()?;
    Some(time.millis() / 1000)
}

#[cfg(test)]
mod tests {
    use super::parse_http_date;

    #[test]
    fn dates_of_headers_are_read() {
        assert_eq!(parse_http_date("Mon, 23 Nov 2026 08:05:11 GMT"), Some(1_795_421_111));
        assert_eq!(parse_http_date("yesterday"), None);
    }
}
