# The words of this project; `make` alone lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Side by side, one thread each.
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart emoji selma versat2i eclipse toffee test test-slow test-crash coverage lint types imports bench bench-policy bench-data bench-store bench-claim bench-api bench-train bench-experts bench-eclipse bench-toffee docs wheel-check clean

help:  ## list these words
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/' | column -t -s '|'

# torch first and alone, at its pinned version: what else is installed then takes the build that is there.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): torch first (200 MB), then the rest; minutes, once."
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[miniature,emoji,docs,dev]'
	touch $(STAMP)

quickstart: $(STAMP)  ## install, then train a student with evolution and without, and compare (2 x 3 minutes on 2 idle cores)
	@last() { ls runs/$$1/checkpoints >/dev/null 2>&1 && echo --ckpt_path last; }; set -e; \
	$(BIN)/evolvedirector fit -c configs/quickstart.yaml $$(last quickstart); \
	echo "Now the same run with evolution off, at equal spend; Ctrl-C leaves it out."; \
	threads=$$(sed -n 's/^cpu_threads: *//p' runs/quickstart/config.yaml); \
	$(BIN)/evolvedirector fit -c configs/quickstart_static.yaml --cpu_threads "$${threads:-auto}" $$(last quickstart-static); \
	$(BIN)/evolvedirector compare runs/quickstart runs/quickstart-static; \
	$(BIN)/evolvedirector report runs/quickstart runs/quickstart-static

emoji: $(STAMP)  ## install, fetch real artwork (30 MB, once), train on scenes of it, and write the report (30 minutes)
	@last() { ls runs/$$1/checkpoints >/dev/null 2>&1 && echo --ckpt_path last; }; set -e; \
	$(BIN)/evolvedirector assets emoji; \
	$(BIN)/evolvedirector fit -c configs/experiment/emoji_scenes.yaml $$(last emoji_scenes); \
	$(BIN)/evolvedirector report runs/emoji_scenes

# Experts begin from one student, trained and exported once.
runs/expert-base/export: $(STAMP)
	@last() { ls runs/$$1/checkpoints >/dev/null 2>&1 && echo --ckpt_path last; }; set -e; \
	$(BIN)/evolvedirector fit -c configs/experiment/expert_base.yaml $$(last expert-base); \
	$(BIN)/evolvedirector export runs/expert-base $@

selma: runs/expert-base/export  ## install, train one expert per skill on written prompts, merge and compare them (15 minutes)
	@last() { ls runs/$$1/checkpoints >/dev/null 2>&1 && echo --ckpt_path last; }; set -e; \
	$(BIN)/evolvedirector fit -c configs/experiment/selma_miniature.yaml $$(last selma); \
	$(BIN)/evolvedirector report runs/selma

versat2i: runs/expert-base/export  ## install, train one expert per aspect on own best images, merge, gate, compare (15 minutes)
	@last() { ls runs/$$1/checkpoints >/dev/null 2>&1 && echo --ckpt_path last; }; set -e; \
	$(BIN)/evolvedirector fit -c configs/experiment/versat2i_miniature.yaml $$(last versat2i); \
	$(BIN)/evolvedirector report runs/versat2i

# The joint space is trained once, and all priors learn from the same pairs in it.
runs/joint-space/space.json: $(STAMP)
	$(BIN)/evolvedirector assets joint-space --folder $(@D)

eclipse: runs/joint-space/space.json  ## install, train ECLIPSE's prior and its two baselines in a small world, and compare (5 minutes)
	@last() { ls runs/$$1/checkpoints >/dev/null 2>&1 && echo --ckpt_path last; }; set -e; \
	fit() { $(BIN)/evolvedirector fit -c configs/method/eclipse.yaml "$$@" $$(last $${2##*/}); }; \
	objective=--model.init_args.objective; named=evolvedirector.lightning_modules; \
	fit --trainer.default_root_dir runs/eclipse; \
	fit --trainer.default_root_dir runs/eclipse-projection $$objective $$named.ProjectionObjective; \
	fit --trainer.default_root_dir runs/eclipse-diffusion $$objective $$named.DiffusionPriorObjective \
		$$objective.guidance_scale 2; \
	$(BIN)/evolvedirector report runs/eclipse runs/eclipse-projection runs/eclipse-diffusion

toffee: $(STAMP)  ## install, fetch real artwork (30 MB, once), build subject pairs of it, train on them, and write the report (an estimated 25 minutes)
	@last() { ls runs/$$1/checkpoints >/dev/null 2>&1 && echo --ckpt_path last; }; set -e; \
	$(BIN)/evolvedirector assets emoji; \
	for pairs in models drawn; do \
		$(BIN)/evolvedirector pairs build runs/toffee/pairs --builder configs/pairs/toffee_$$pairs.yaml; \
	done; \
	$(BIN)/evolvedirector fit -c configs/method/toffee.yaml $$(last toffee); \
	$(BIN)/evolvedirector report runs/toffee

test: $(STAMP)  ## install, then run the fast tests
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

test-slow: $(STAMP)  ## run the slow tests: crash points, several processes, commands of the README
	$(BIN)/python -m pytest -m slow --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

test-crash: $(STAMP)  ## let disk, process and power fail at every single operation of the store, and play with it (ten minutes)
	$(BIN)/python -m pytest -m crash --numprocesses $(TEST_PROCESSES) $(PYTEST_ARGS)

coverage: $(STAMP)  ## run all tests again and show what they reach, subprocesses included; fail below the bar (twice the time)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m 'not gpu and not crash' --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet --keep
	$(BIN)/coverage report

lint: $(STAMP)  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## check types
	$(BIN)/mypy typings/evolvedirector

imports: $(STAMP)  ## check that imports go one way, without circles
	cd typings && PYTHONPATH=. $(abspath $(BIN))/lint-imports --no-cache ../pyproject.toml

bench: $(STAMP)  ## measure step overhead and read speed
	@set -e; for script in reads step_overhead; do echo "== $$script"; $(BIN)/python -m benchmarks.$$script; done

bench-train: $(STAMP)  ## compare images/s of training and drawing with diffusers' own, and steps with a bare loop (10 minutes)
	$(BIN)/python -m benchmarks.train_throughput --write benchmarks/results/train_throughput.json
	$(BIN)/python -m benchmarks.step_overhead --pairs 200 --write benchmarks/results/step_overhead.json

bench-policy: $(STAMP)  ## compare policies, their switches and noisy judges on a student of a second (about 15 minutes)
	$(BIN)/python -m benchmarks.policy_trial

bench-data: $(STAMP)  ## measure what evolution is worth at equal spend; continues where it stopped (about 45 minutes)
	$(BIN)/python -m benchmarks.data_efficiency

bench-claim: $(STAMP)  ## measure what looking is worth to a pretrained student with a gap (2 hours on 2 cores; resumes)
	$(BIN)/python -m benchmarks.unknown_gaps --claim

bench-experts: $(STAMP)  ## measure experts, merges and gate, three seeds (about 3 hours of one core; resumes)
	$(BIN)/python -m benchmarks.experts

bench-eclipse: $(STAMP)  ## measure ECLIPSE against projection, ridge and diffusion, two spaces and five seeds (an hour of one core; resumes)
	$(BIN)/python -m benchmarks.eclipse

bench-toffee: $(STAMP)  ## measure a subject-driven model on emoji: ends, guidance, joint against separate, three seeds (hours of one core; resumes)
	$(BIN)/python -m benchmarks.toffee

bench-store: $(STAMP)  ## measure how opening, publishing and reading grow up to a million prompts (an estimated 15 minutes, 6 GB of disk)
	$(BIN)/python -m benchmarks.store_scale --write benchmarks/results/store_scale.json

bench-api: $(STAMP)  ## measure what share of a service's capacity a teacher reaches
	$(BIN)/python -m benchmarks.api_throughput

# Strict: a broken link or a warning fails. The variable silences an announcement of the theme's authors.
docs: $(STAMP)  ## build the documentation into site/ (open site/index.html)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

wheel-check: $(STAMP)  ## build the wheel and test it away from the checkout
	$(BIN)/python .ci/wheel_check.py

clean:  ## delete the environment, caches and build products (runs/ stays)
	rm -rf $(VENV) build dist site *.egg-info .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
