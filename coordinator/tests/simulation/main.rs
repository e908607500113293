//! A whole fleet in one thread under virtual time: the real coordinator's router and real agents' daemons, between them
//! a network that delays, drops and repeats, under them an engine that fails before and after commits, around them
//! people who start, stop and pause, and crashes of either side at any await point. One seed gives one history.
//!
//! First safety under faults: after each step the rules of `checks.rs` must hold. Then liveness: faults end, and all
//! work must end within a bound. `SIMULATION_SEEDS=1000 cargo nextest run -p drover-coordinator simulation` runs more
//! seeds; `SIMULATION_FIRST_SEED=n` begins at another one.

mod checks;
mod host;
mod network;
mod people;
mod world;

use std::{rc::Rc, time::Duration};

use world::World;

/// How long faults go on, in virtual time.
const FAULTS: Duration = Duration::from_secs(180);
/// By then everything has ended after the faults: a lost job (360 s), tried three times, each for its longest time.
const PATIENCE: Duration = Duration::from_secs(3_600);

async fn live(world: Rc<World>) {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            world.start_coordinator().await;
            people::prepare(&world).await;
            tokio::task::spawn_local(world::keep_coordinator(Rc::clone(&world)));
            for number in 0..world::ROBOTS {
                tokio::task::spawn_local(host::live(Rc::clone(&world), number));
            }
            let faults_end = tokio::time::Instant::now() + FAULTS;
            while tokio::time::Instant::now() < faults_end {
                people::act(&world).await;
                checks::safety(&world);
            }
            world.end_faults();
            people::resume_everything(&world).await;
            let patience_ends = tokio::time::Instant::now() + PATIENCE;
            while !checks::all_finished(&world) {
                assert!(tokio::time::Instant::now() < patience_ends, "{}", checks::what_hangs(&world));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            checks::safety(&world);
            checks::logs(&world).await;
        })
        .await;
}

fn simulate(seed: u64) -> Vec<String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let world = World::new(seed);
        live(Rc::clone(&world)).await;
        world.history()
    })
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Whatever fails and whenever: no attempt has two holders, no job ends twice, no line is lost or doubled, all ends.
#[test]
fn a_fleet_survives_everything() {
    let first = setting("SIMULATION_FIRST_SEED", 0);
    for seed in first..first + setting("SIMULATION_SEEDS", 20) {
        // The panic of a check names no seed by itself.
        println!("seed {seed}");
        simulate(seed);
    }
}

/// A failing seed can be run again and again: it gives the same history.
#[test]
fn one_seed_gives_one_history() {
    assert_eq!(simulate(3), simulate(3));
    assert_ne!(simulate(3), simulate(4));
}
