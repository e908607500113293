//! The program that libFuzzer drives. `DROVER_FUZZ_TARGET` names the target; with `DROVER_FUZZ_SEEDS` the bytes to begin
//! with are written into that folder first.
#![no_main]

use std::{path::Path, sync::LazyLock};

use drover_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("DROVER_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("DROVER_FUZZ_TARGET names no target: {name:?}"))
});

fn write_seeds() {
    let Some(folder) = std::env::var_os("DROVER_FUZZ_SEEDS") else { return };
    for (number, seed) in (TARGET.seeds)().iter().enumerate() {
        std::fs::write(Path::new(&folder).join(format!("seed-{number}")), seed).expect("the seed can be written");
    }
}

fuzz_target!(init: write_seeds(), |bytes: &[u8]| (TARGET.run)(bytes));
