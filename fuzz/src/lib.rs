//! What reads bytes from outside, each as a function that must never panic, hang or break a promise, whatever the bytes.
//!
//! `make fuzz` drives them with libFuzzer, which looks for bytes that lead into code not seen before. The ordinary tests
//! run each of them on its seeds and on some thousand changes of these, so that a target that does not work is noticed.

mod commit_log;
mod cursor;
mod json_schema;
mod log_chunk;
mod package;
mod request;
mod world;

/// One reader of bytes.
pub struct Target {
    pub name: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
    /// Bytes to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 7] = [
    Target { name: "package", run: package::run, seeds: package::seeds },
    Target { name: "manifest", run: package::run_manifest, seeds: package::manifest_seeds },
    Target { name: "log_chunk", run: log_chunk::run, seeds: log_chunk::seeds },
    Target { name: "cursor", run: cursor::run, seeds: cursor::seeds },
    Target { name: "commit_log", run: commit_log::run, seeds: commit_log::seeds },
    Target { name: "json_schema", run: json_schema::run, seeds: json_schema::seeds },
    Target { name: "request", run: request::run, seeds: request::seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator of its own, so that the same changes are made everywhere.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % limit.max(1)
        }
    }

    fn change(dice: &mut Dice, bytes: &mut Vec<u8>) {
        let at = dice.below(bytes.len());
        match dice.below(4) {
            0 if !bytes.is_empty() => bytes[at] = dice.below(256) as u8,
            1 if !bytes.is_empty() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            _ => bytes.insert(at, dice.below(256) as u8),
        }
    }

    fn run_some(target: &Target, rounds: usize) {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        seeds.iter().for_each(|seed| (target.run)(seed));
        let mut dice = Dice(7);
        for round in 0..rounds {
            let mut bytes = seeds[round % seeds.len()].clone();
            for _ in 0..=dice.below(4) {
                change(&mut dice, &mut bytes);
            }
            (target.run)(&bytes);
        }
    }

    #[test]
    fn readers_of_packages() {
        run_some(target("package").expect("it is listed"), 1_000);
        run_some(target("manifest").expect("it is listed"), 500);
    }

    #[test]
    fn readers_of_chunks_and_cursors() {
        run_some(target("log_chunk").expect("it is listed"), 1_000);
        run_some(target("cursor").expect("it is listed"), 1_000);
    }

    #[test]
    fn the_reader_of_the_commit_log() {
        run_some(target("commit_log").expect("it is listed"), 100);
    }

    #[test]
    fn readers_of_schemas_and_requests() {
        run_some(target("json_schema").expect("it is listed"), 300);
        run_some(target("request").expect("it is listed"), 500);
    }
}
