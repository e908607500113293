//! Facts and condition of the host, read sparingly: never the list of processes, which would cost more memory than the
//! agent itself.

use std::{collections::BTreeMap, fs, net::UdpSocket, path::PathBuf};

use drover_protocol::robot::{Health, Host};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, Networks, RefreshKind, System};

use crate::{config::Settings, daemon::HostProbe};

/// What the coordinator takes at the most of each text.
const MAX_TEXT_CHARS: usize = 256;

/// Reads the host that the agent runs on.
pub struct SystemProbe {
    system: Option<System>,
    state_dir: PathBuf,
    labels: BTreeMap<String, String>,
    capacity: Option<u32>,
    server: String,
}

impl SystemProbe {
    /// `server` is only used to find out which of the host's addresses faces it.
    pub fn new(settings: &Settings, server: &str) -> Self {
        let refresh = RefreshKind::nothing()
            .with_memory(MemoryRefreshKind::nothing().with_ram())
            .with_cpu(CpuRefreshKind::nothing().with_usage());
        Self {
            system: System::new_with_specifics(refresh).ok(),
            state_dir: settings.state_dir.clone(),
            labels: settings.labels.clone(),
            capacity: (settings.capacity > 0).then_some(settings.capacity),
            server: server.to_owned(),
        }
    }
}

impl HostProbe for SystemProbe {
    fn host(&mut self) -> Host {
        let ip = address_towards(&self.server).unwrap_or_default();
        let mut labels = self.labels.clone();
        for (name, value) in [("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)] {
            labels.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        let mut host = Host {
            hostname: host_name(),
            os: std::env::consts::OS.to_owned(),
            os_version: System::long_os_version().or_else(|_| System::os_version()).unwrap_or_default(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism()
                .ok()
                .and_then(|count| u32::try_from(count.get()).ok())
                .unwrap_or(1),
            memory_bytes: self.system.as_ref().map_or(0, System::total_memory),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            mac: mac_of(&ip).unwrap_or_default(),
            ip,
            user: user_name(),
            time_zone: time_zone().unwrap_or_default(),
            labels,
            capacity: self.capacity,
        };
        for text in [&mut host.hostname, &mut host.os_version, &mut host.user, &mut host.time_zone] {
            *text = text.chars().filter(|character| !character.is_control()).take(MAX_TEXT_CHARS).collect();
        }
        host
    }

    fn health(&mut self) -> Health {
        let mut health = Health { disk_free_bytes: disk_free_bytes(&self.state_dir), ..Health::default() };
        if let Some(system) = &mut self.system {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            system.refresh_cpu_usage();
            let percent = system.global_cpu_usage();
            health.cpu_percent = percent.is_finite().then_some(percent);
            health.memory_used_bytes = system.used_memory();
            health.memory_total_bytes = system.total_memory();
        }
        health.load_1m = System::load_average().ok().map(|load| load.one as f32);
        health
    }
}

/// The host's name; "unknown" if it has none.
pub fn host_name() -> String {
    System::host_name().unwrap_or_else(|_| "unknown".to_owned())
}

/// Bytes that an ordinary account can still write where this folder lies; 0 if that cannot be found out.
pub fn disk_free_bytes(folder: &std::path::Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Which own address the host would use to reach the server. Nothing is sent.
fn address_towards(server: &str) -> Option<String> {
    let url = url::Url::parse(server).ok()?;
    let target = (url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?);
    let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).ok()?;
    if socket.connect(&target).is_err() {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(&target).ok()?;
        return Some(socket.local_addr().ok()?.ip().to_canonical().to_string());
    }
    Some(socket.local_addr().ok()?.ip().to_canonical().to_string())
}

fn mac_of(ip: &str) -> Option<String> {
    let networks = Networks::new_with_refreshed_list().ok()?;
    networks
        .iter()
        .find(|(_, network)| network.ip_networks().iter().any(|own| own.addr.to_string() == ip))
        .map(|(_, network)| network.mac_address().to_string())
}

/// The OS account that the agent runs as.
pub fn user_name() -> String {
    let id = rustix::process::geteuid().as_raw();
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == id).then(|| name.to_owned())
    });
    found.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| id.to_string())
}

/// IANA name of the host's time zone.
fn time_zone() -> Option<String> {
    if let Ok(zone) = std::env::var("TZ")
        && zone.contains('/')
    {
        return Some(zone.trim_start_matches(':').to_owned());
    }
    let link = fs::canonicalize("/etc/localtime").ok();
    let linked = link
        .as_ref()
        .and_then(|path| path.to_str())
        .and_then(|path| path.split_once("/zoneinfo/"))
        .map(|(_, zone)| zone.to_owned());
    linked.or_else(|| Some(fs::read_to_string("/etc/timezone").ok()?.trim().to_owned()).filter(|zone| !zone.is_empty()))
}
