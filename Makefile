# The commands a person needs; `make help` lists them.
SHELL := /bin/bash
CARGO ?= cargo

.PHONY: help build demo cluster-demo test cluster-test lint bench bench-operator conformance crds chart-test fuzz clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## build masque-gateway and datum-connect (release)
	$(CARGO) build --release -p masque-gateway -p datum-connect

cluster-demo: ## helm install to packets, on a real Kubernetes of two nodes on this machine; root
	@scripts/cluster-demo

demo: ## two VPCs, two clients, real SRv6, on this machine; root or ordinary user
	@scripts/demo

test: ## every test level; says what it skipped and why
	@scripts/test

cluster-test: ## the kinds, the operator and real gateways on a throw-away API server (FILTER names tests)
	@export KUBE_LAB_ID=make-$$$$; trap 'scripts/kube.sh down' EXIT; KUBECONFIG=$$(scripts/kube.sh up kcm --while $$$$) && export KUBECONFIG && \
	  $(CARGO) build -q -p masque-operator -p masque-gateway -p datum-connect && $(CARGO) test -p masque-cluster-tests -- $(FILTER)

lint: ## formatting, clippy, docs and the architecture's arrows
	@scripts/lint

bench: ## side-by-side speed ratios
	@scripts/bench

bench-operator: ## the operator's times, memory and writes on a real API server, beside their goals
	@scripts/bench-operator

conformance: ## regenerate docs/conformance.md
	@$(CARGO) run -q -p xtask -- conformance

crds: ## regenerate crds/, the chart of the definitions and docs/kubernetes/fields.md
	@$(CARGO) run -q -p xtask -- crds

chart-test: ## charts, kustomize, examples, alerts, Argo CD health; on a real API server where one can be started
	@scripts/chart-test

fuzz: ## fuzz every target for FUZZ_SECONDS (default 60) each
	@scripts/fuzz

clean: ## remove what was built
	$(CARGO) clean
