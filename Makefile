# Everything runs in .venv, which these targets make; nothing is needed before them but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install lint test clients torchserve processes durability browser examples docker demo bench bench-checkpoints bench-client bench-export \
	bench-images bench-scaling bench-serving bench-torchserve gpu gpu-wheels soak soak-checkpoints soak-torchserve fuzz clean

install: .venv/.installed

# torch first and by its exact version: an open range can take a build with gigabytes of CUDA libraries.
.venv/.installed: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[cpu,export,images,text,torchserve,bench,dev]'
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint --config docker/hadolint.yaml docker/Dockerfile.*

test: lint
	$(BIN)/pytest

# KServe's client wants other versions than ours of what both need: it has an environment of its own (450 MB).
.venv-clients/.installed: tests/clients/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip --disable-pip-version-check install --quiet --requirement $<
	@touch $@

clients: install .venv-clients/.installed
	.venv-clients/bin/python -m pytest -W default tests/clients

# Against the real TorchServe (Java 17, openssl): its kept answers and ours, our archives behind it, and whether it still answers so.
torchserve: install
	$(BIN)/pytest -m torchserve
	$(BIN)/python -m tests.torchserve.record --check

# A server of several processes: its children killed, its models swapped, its answers counted.
processes: install
	$(BIN)/pytest -m processes

# Trainings that save, killed; their disks full, gone, without links; a real S3 server among them.
durability: install
	$(BIN)/pytest -m durability

# The page at /ui, in a real Chromium (apt: chromium).
browser: install
	$(BIN)/pytest -m browser

# The Dockerfiles' steps in empty environments, without Docker; each image's command then serves or exports.
docker: install
	$(BIN)/pytest -m docker

# examples/images and examples/sentences, shortly and whole: answers over HTTP are those of the training code.
examples: install
	$(BIN)/pytest -m examples

demo: install
	$(BIN)/python examples/digits/demo.py

# The load test of three models against plain FastAPI and the real TorchServe (Java 17): about 25 minutes.
bench: install
	$(BIN)/python -m bench.three_models --to docs/benchmarks

# What saving takes from the training step, beside torch.save and Lightning's ModelCheckpoint.
bench-checkpoints: install
	$(BIN)/python docs/benchmarks/measure_checkpoints.py --to docs/benchmarks/checkpoints.md

# The load generator beside wrk.
bench-client: install
	$(BIN)/python -m bench.client_against_wrk --to docs/benchmarks/client.md

bench-export: install
	$(BIN)/python docs/benchmarks/measure_export.py

# Pictures over HTTP against decoding alone and the engine alone, on the same cores.
bench-images: install
	$(BIN)/python -m bench.images --to docs/benchmarks/images.md

# The throughput of one, two, … front ends: one row per count that the cores allow.
bench-scaling: install
	$(BIN)/python -m bench.scaling --to docs/benchmarks/scaling.md

bench-serving: install
	$(BIN)/python -m bench.serving --to docs/benchmarks/serving.md

# The real TorchServe, which needs Java 17, and ours; ab (apache2-utils) and wrk make the load.
bench-torchserve: install
	$(BIN)/python -m bench.torchserve --to docs/benchmarks/torchserve.md

# Everything for CUDA, in under eight minutes on a machine that has a GPU; elsewhere one line. It takes the system's torch, without
# an index: what is not there it installs from $(WHEELS), which `make gpu-wheels` fills. GPU="--quick --only bound" passes flags on.
WHEELS ?= build/wheels
GPU ?=
gpu:
	$(PYTHON) -m bench.gpu.bootstrap --wheels $(WHEELS) -- --to docs/benchmarks/gpu.md $(GPU)

gpu-wheels:
	$(PYTHON) -m bench.gpu.wheels --to $(WHEELS)

SERVER_SOAK := mix-up swaps overload leaving ending memory
WORKERS_SOAK := workers-killed worker-alone workers-ending workers-memory

soak: install soak-checkpoints
	$(BIN)/python -m bench.soak $(SERVER_SOAK:%=--only %) --to docs/benchmarks/soak.md
	$(BIN)/python -m bench.soak $(SERVER_SOAK:%=--only %) --only kills --frontends 2 --engine-processes 2 --append \
		--to docs/benchmarks/soak.md

# Trainings that save all the time, killed by -9: on the local file system, and against an S3 server.
soak-checkpoints: install
	$(BIN)/python -W ignore -m tests.checkpoints.keeping.kills --times 500 --without-links-times 100 --every-call --s3-times 100 \
		--s3-parts-times 20 --to docs/benchmarks/soak-checkpoints.md

# TorchServe's workers, killed and ended under load.
soak-torchserve: install
	$(BIN)/python -m bench.soak $(WORKERS_SOAK:%=--only %) --to docs/benchmarks/soak-torchserve.md

# Takes about ten minutes on two cores; FUZZ_RUNS=100000 less. What it finds stays in build/fuzz.
FUZZ_RUNS ?= 1000000
fuzz: install
	$(BIN)/python -m tests.fuzz.run --runs $(FUZZ_RUNS) --to docs/fuzzing.md

clean:
	rm -rf .venv .venv-clients model_repository examples/digits/best.pth
