# The stages of a run. Everything can be set: make extract MODEL=DIR DATA=DIR RUN=runs/mine; ARGS adds options.
MODEL ?= data/demo/clip
DATA  ?= data/demo/pictures
RUN   ?= runs/demo
TASKS ?= 5
SEED  ?=
SQL   ?= SELECT after_task, on_task, metric, ROUND(value, 1) AS value FROM metrics WHERE on_task IS NULL
ARGS  ?=

CGIL   = target/release/cgil
CARGO  = cargo
SEEDED = $(if $(SEED),--seed $(SEED))

.PHONY: build extract fit-vae prompt-tune query demo wheel dist test test-cluster test-python test-wheel check check-decoders bench bench-torch gpu-check count-launches \
        growth big mutants schemas clean

build:
	$(CARGO) build --release

extract: build
	$(CGIL) extract --model $(MODEL) --data $(DATA) --run $(RUN) $(ARGS)

fit-vae: build
	$(CGIL) fit-vae --run $(RUN) --tasks $(TASKS) $(SEEDED) $(ARGS)

prompt-tune: build
	$(CGIL) prompt-tune --run $(RUN) $(SEEDED) $(ARGS)

query: build
	$(CGIL) query --run $(RUN) "$(SQL)" $(ARGS)

# The three stages on the embedded pictures and CLIP, offline.
demo: extract fit-vae prompt-tune

# The program as a Python wheel, from what `make build` builds, into target/wheels: pip install, pipx run --spec and
# uvx --from take the file.
MATURIN = runs/tools/maturin/bin/maturin

wheel: $(MATURIN)
	$(MATURIN) build --release --out target/wheels

$(MATURIN):
	python3 -m venv runs/tools/maturin
	runs/tools/maturin/bin/pip install --quiet maturin==1.16.0

# The stripped program with shell completions, man pages and licences, into target/dist.
DIST = target/dist/cgil-$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)-$(shell rustc -vV | sed -n 's/^host: //p')

dist: build
	rm -rf $(DIST) $(DIST).tar.gz
	mkdir -p $(DIST)/completions
	strip -o $(DIST)/cgil $(CGIL)
	for shell in bash elvish fish powershell zsh; do $(CGIL) completions $$shell > $(DIST)/completions/cgil.$$shell || exit 1; done
	$(CGIL) man $(DIST)/man
	cp README.md CHANGELOG.md LICENSE-* $(DIST)
	tar -C target/dist -czf $(DIST).tar.gz $(notdir $(DIST))

test:
	$(CARGO) test --release

# Partitions on a Slurm cluster of three nodes that is started on this machine, as root. Needs Debian's slurmctld, slurmd,
# slurm-client and munge.
test-cluster: build
	tests/cluster/run.sh

# The snippets of docs/python.md, docs/export.md and docs/tutorial.md that need PyTorch and datasets, too: CGIL_PYTHON
# names a Python that has them, else they are installed below target/.
test-python:
	$(CARGO) test --release --test cgil -- --include-ignored python:: export:: add::pytorch

# The wheel in an empty virtual environment: the demo runs from it.
test-wheel: wheel
	tests/wheel.sh

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings
	$(CARGO) clippy --release --no-default-features --lib --example classify -- -D warnings

bench:
	$(CARGO) bench --bench stages

# Every stage beside plain PyTorch, in one run, into docs/performance.md. Installs PyTorch below runs/ on the first call.
bench-torch: build
	python3 benches/torch/versus.py

# What a CUDA device computes, held against the CPU, and its speed beside PyTorch on the same device. On a machine with one,
# by the python3 there, which needs PyTorch with CUDA, transformers, pyarrow and Pillow; into docs/performance.md.
gpu-check:
	python3 benches/torch/gpu_check.py

# How many kernels a prompt step and a batch of images of MODEL are on a CUDA device, counted without one. Needs the
# toolkit of CUDA 13: CUDA_HOME names it, CUDA_COMPUTE_CAP says what it builds for.
count-launches:
	python3 benches/launches/count.py $(MODEL)

# How time and memory grow with images and classes, into docs/growth.svg. After bench-torch, whose environment it uses.
growth: build
	runs/bench-torch/venv/bin/python benches/growth.py

# How time and memory grow with the number of embeddings, up to 20 million, into docs/big.svg. Takes 3 GB of disk. After
# bench-torch, whose environment it uses.
big: build
	$(CARGO) build --release --bench synthetic
	runs/bench-torch/venv/bin/python benches/big.py

# Pictures of every mode, size and format beside Pillow and transformers. After bench-torch, whose environment it uses.
check-decoders: build
	runs/bench-torch/venv/bin/python benches/decoders/compare.py

# Which changes no test sees of the files that decide which rows, candidates and results belong together, into
# runs/mutants.out. All of them take hours: FILES names some. The sources change as it goes, and are put back: commit first.
FILES   ?= $(wildcard $(addprefix src/,artefact/*.rs atomic.rs embeddings/*.rs evaluate.rs metrics/*.rs results.rs rows.rs run.rs \
             stream/*.rs summary.rs task.rs generator/store.rs method/*.rs prompt/align.rs prompt/stream.rs prompt/training.rs))
MUTANTS  = runs/tools/bin/cargo-mutants

mutants: $(MUTANTS)
	$(MUTANTS) mutants --in-place --output runs $(addprefix --file ,$(FILES)) $(ARGS)

$(MUTANTS):
	$(CARGO) install cargo-mutants --locked --root runs/tools

# Renders schemas/README.md from the contracts.
schemas:
	RENDER_SCHEMAS=1 $(CARGO) test --release the_page_is_rendered

clean:
	$(CARGO) clean
	rm -rf runs
