# Everything is done by cargo and the scripts named here; `make test` is what decides.

.PHONY: demo test lint bench

# The whole line on this machine, until Ctrl-C; ARGS=--once ends by itself.
demo:
	.ci/install-missing demo
	cargo build --release --locked
	examples/demo.sh $(ARGS)

# Installs what is missing and runs every check and test.
test:
	.ci/install-missing test
	.ci/test

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# Every figure of bench/, in one run beside what the same disk and the same load generator reach without Drover.
# ARGS names single figures, such as ARGS="http dispatch"; ARGS=--help lists them.
bench:
	cargo build --release --locked -p drover-coordinator -p drover-agent -p drover-bench
	cargo run --release --locked -q -p drover-bench --bin drover-bench -- $(ARGS)
