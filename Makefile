# `make` lists the targets. Each does its own set-up, and works the second time
# as the first. Rust is enough for all of them but e2e and bench, which need Go, and
# c-policy, which needs clang.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo serve test e2e bench plugins c-policy crd fmt lint deny soak mutants clean

# Where cargo builds, should somebody have moved it.
TARGET := $(or $(CARGO_TARGET_DIR),target)
say = @echo '==> $(strip $(1))' >&2
# The first build takes minutes, and nobody should wonder what it is doing.
first = $(if $(wildcard $(TARGET)/debug/vmgroup),,; the first build takes about 8 minutes on two cores)

# What the operator embeds. Built first, as cargo's build script may install nothing:
# this adds the compiler's target for WebAssembly where it is missing.
define policies
$(call say, building the policies as WebAssembly)
@scripts/build-plugins
endef

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## The whole story on simulators, in the terminal. KEEP=1 leaves it running to play with
	$(policies)
	$(call say, building the operator and the demo$(first))
	@cargo build --workspace --bin vmgroup --bin demo
	@$(TARGET)/debug/demo $(if $(filter-out 0,$(KEEP)),--keep)

serve: ## CRATE=folder: builds, checks and swaps in your policy at each change, on simulators
	@if [ -z '$(CRATE)' ]; then echo 'say which crate: make serve CRATE=my-policy; vmgroup policy new begins one' >&2; exit 2; fi
	$(policies)
	$(call say, building the operator and the demo$(first))
	@cargo build --workspace --bin vmgroup --bin demo
	@$(TARGET)/debug/demo --serve '$(CRATE)'

test: ## Every test that needs nothing but Rust
	$(policies)
	$(call say, building the tests$(first))
	@cargo test --workspace --no-run
	$(call say, testing the workspace)
	@cargo test --workspace --quiet --no-fail-fast
	$(call say, testing the example of an outsider)
	@cargo test --manifest-path examples/custom-policy/Cargo.toml --target-dir $(TARGET)/custom-policy --quiet
	$(call say, checking deploy/ and the Containerfile)
	@scripts/check-deploy

e2e: ## The same stories against the real kube-apiserver, etcd, vcsim and registry. Needs Go
	$(call say, building the real kube-apiserver etcd vcsim and registry; about 7 minutes the first time)
	@host/e2e/tools/build >/dev/null
	$(call say, testing the front of vcsim)
	@go -C host/e2e/tools/vsphere test ./...
	$(policies)
	$(call say, building the operator and the suite$(first))
	@cargo build --workspace --bin vmgroup
	@cargo test --workspace --test real --no-run
	$(call say, running the suite on the real components)
	@VMGROUP_E2E=1 cargo test --workspace --test real -- --test-threads=1 --nocapture
	@if clang --print-targets 2>/dev/null | grep -q wasm32; then $(MAKE) --no-print-directory c-policy; \
	else echo '==> left out, as there is no clang that makes WebAssembly: the policy in C, built anew' >&2; fi

bench: ## Print the figures: speed, calls, memory. Needs Go
	$(call say, building vcsim)
	@host/e2e/tools/build vsphere >/dev/null
	$(policies)
	$(call say, building in release mode; some minutes the first time)
	@cargo build --release --workspace --bin vmgroup --bin bench
	@$(TARGET)/release/bench

plugins: ## The shipped policies as WebAssembly, with their sizes
	@scripts/build-plugins --sizes

# Where the policy in C is built, and what generates its bindings if nobody has it.
C_POLICY := $(abspath $(TARGET))/c-policy

c-policy: export PATH := $(C_POLICY)/bin:$(PATH)
c-policy: ## The policy in C, built anew and tried as the one that is checked in. Needs clang
	@if ! command -v wit-bindgen >/dev/null; then \
	echo '==> building wit-bindgen; about 4 minutes the first time' >&2; \
	cargo install wit-bindgen-cli --version 0.61.1 --locked --no-default-features --features c --root '$(C_POLICY)' --quiet; fi
	$(call say, building the policy in C)
	@examples/c-policy/build '$(C_POLICY)/least-memory.wasm'
	@if cmp --silent '$(C_POLICY)/least-memory.wasm' examples/c-policy/least-memory.wasm; \
	then echo 'byte for byte what is checked in'; \
	else echo 'other bytes than those checked in, as from other versions of its tools; what it does is tried now'; fi
	$(call say, trying it)
	@VMGROUP_C_POLICY='$(C_POLICY)/least-memory.wasm' cargo test --workspace --test other_language --quiet

crd: ## Generate deploy/base/crd.yaml from the types in host/api
	$(policies)
	@cargo build --workspace --bin vmgroup
	@$(TARGET)/debug/vmgroup crd > deploy/base/.crd.yaml && mv deploy/base/.crd.yaml deploy/base/crd.yaml

fmt: ## Format all Rust
	@cargo fmt --all
	@cargo fmt --manifest-path examples/custom-policy/Cargo.toml

lint: ## Format, clippy and shellcheck (if there is one)
	$(policies)
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck scripts/* .ci/run host/e2e/tools/build; \
	else echo 'shellcheck is not installed; the scripts were not looked at' >&2; fi

deny: ## Licenses, sources, duplicates and advisories of the dependencies
	@if ! cargo deny --version >/dev/null 2>&1; then \
	echo 'cargo-deny is missing:  cargo install cargo-deny --locked   (about 5 minutes)' >&2; exit 1; fi
	@cargo deny --workspace check

# Where a long soak keeps its state, to be gone on with.
SOAK_STATE := $(TARGET)/soak.json

soak: ## RUNS=1000 random runs under random faults; Ctrl-C stops, the same again goes on. RELEASE=1 for many
	$(policies)
	$(call say, building the soak$(first))
	@cargo build --workspace --bin soak $(if $(RELEASE),--release)
	@$(TARGET)/$(if $(RELEASE),release,debug)/soak --runs $(or $(RUNS),1000) --from $(or $(FROM),0) --threads 2 --continue $(SOAK_STATE)

mutants: ## Plants known bugs, one at a time: each has to be caught. ONLY=part of a name
	$(policies)
	$(call say, building what plants them$(first))
	@cargo build --workspace --bin mutants
	@$(TARGET)/debug/mutants $(if $(ONLY),--only $(ONLY))

clean: ## Remove what was built, but not the real components of e2e
	@if [ -d '$(TARGET)' ]; then find '$(TARGET)' -mindepth 1 -maxdepth 1 ! -name e2e-tools -exec rm -rf {} +; fi
	@rm -rf examples/custom-policy/target examples/c-policy/target
