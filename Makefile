# Everything is done by cargo and the scripts named here; `make test` is what decides.

.PHONY: demo test test-power test-chaos simulate mutations fuzz lint bench

# The whole line on this machine, until Ctrl-C; ARGS=--once ends by itself.
demo:
	.ci/install-missing demo
	cargo build --release --locked
	examples/demo.sh $(ARGS)

# Installs what is missing and runs every check and test.
test:
	.ci/install-missing test
	.ci/test

# Power cuts under load, then all that was acknowledged must be there. Needs root and loop devices; says so if it has not.
test-power:
	.ci/install-missing power
	cargo build --locked -p drover-coordinator
	python3 -B coordinator/tests/power/power.py --rounds $(or $(ROUNDS),20)

# Coordinator and agents killed, frozen and cut off from each other while jobs run; ROUNDS=n, SEED=n.
test-chaos:
	cargo build --workspace --bins --locked
	DROVER_BIN_DIR=$${CARGO_TARGET_DIR:-target}/debug python3 -B coordinator/tests/chaos/chaos.py \
		--rounds $(or $(ROUNDS),200) $(if $(SEED),--seed $(SEED))

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# Looks for bytes that harm what reads them, a minute for each target; SECONDS=600 for longer.
SECONDS ?= 60
fuzz:
	.ci/install-missing fuzz
	.ci/fuzz $(SECONDS)

# Every figure of bench/, in one run beside what the same disk and the same load generator reach without Drover.
# ARGS names single figures, such as ARGS="http dispatch"; ARGS=--help lists them.
bench:
	cargo build --release --locked -p drover-coordinator -p drover-agent -p drover-bench
	cargo run --release --locked -q -p drover-bench --bin drover-bench -- $(ARGS)

# Whole fleets in virtual time, one seed one history: SEEDS of them from SEED on. A failing seed is named with its history.
simulate:
	SIMULATION_FIRST_SEED=$(or $(SEED),0) SIMULATION_SEEDS=$(or $(SEEDS),1000) \
	  cargo test --profile simulation --locked -p drover-coordinator --test simulation -- \
	  --exact a_fleet_survives_everything --nocapture

# Shows that the simulation notices each broken rule: every mutation must fail within SEEDS; ONLY="name name" for some.
mutations:
	coordinator/tests/simulation/mutations/run $(or $(SEEDS),200) $(ONLY)
