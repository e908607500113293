//! The Drover agent: takes jobs from a coordinator and runs them on this host.
//!
//! Events in, actions out: [`core::Core`] decides, [`daemon::Daemon`] carries out. The daemon knows the outside only
//! through traits, so that a whole fleet runs in one thread with paused time:
//!
//! | what | trait | real | for a simulation |
//! |---|---|---|---|
//! | network | [`transport::Transport`] | [`transport::HttpTransport`] | calls the coordinator's router |
//! | processes and their lines | [`runner::JobRunner`], [`runner::LineSource`] | [`job_runner::ProcessRunner`] | a host in memory that outlives the daemon |
//! | promises on disk | [`journal::Journal`] | [`journal::FileJournal`] | [`journal::MemoryJournal`], whose clones share their entries |
//! | host facts | [`daemon::HostProbe`] | [`host::SystemProbe`] | constants |
//! | time | [`clock::Clock`] over `tokio::time` | [`clock::Clock::system`] | [`clock::Clock::starting_at`] under `tokio::time::pause` |
//! | randomness | a seed in [`daemon::Parts`] and [`coordinator::Coordinator::new`] | | |
//!
//! ```ignore
//! let journal = MemoryJournal::default();
//! loop {
//!     let coordinator = Rc::new(Coordinator::new(my_transport.clone(), Some(&robot_key), seed));
//!     let mut daemon = Daemon::new(Parts {
//!         coordinator, runner: Rc::clone(&my_host), journal: journal.clone(), probe: Box::new(my_probe),
//!         clock: Clock::starting_at(base), settings, seed,
//!     });
//!     let (signals, received) = tokio::sync::mpsc::unbounded_channel();
//!     // Dropping the future at any await point is a crash; the next round goes on from the same journal and host.
//!     tokio::select! { result = daemon.run(received) => break result, () = crash_of_the_simulation() => {} }
//! }
//! ```
//!
//! Futures are local (`!Send`), nothing is spawned, and all waiting is `tokio::time`.

pub mod artifacts;
pub mod attempt;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod core;
pub mod daemon;
pub mod durable;
pub mod exit;
pub mod host;
pub mod identity;
pub mod job_runner;
pub mod journal;
pub mod launcher;
pub mod log_sender;
pub mod output;
pub mod package;
pub mod python;
pub mod redact;
pub mod report;
pub mod runner;
pub mod spool;
pub mod tool;
pub mod transport;
pub mod work_folder;
