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

# How fast the store is on this machine; ARGS="SECONDS FOLDER".
bench:
	cargo bench --locked -p drover-coordinator --bench store -- $(ARGS)
