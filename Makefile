# make run   sets up and runs the main job on this machine
# make test  sets up and passes the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test check slurm browser pictures clean

run: $(VENV)/.installed
	$(BIN)/yaoki run diffusion

test: $(VENV)/.installed-test slurm browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# What CI checks besides the tests: style, types, and that imports only go down.
check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=tests $(BIN)/mypy --explicit-package-bases tests benchmarks docs/examples
	$(BIN)/lint-imports

# The tests need Slurm's packages: installed where that is allowed; otherwise this says how.
slurm: $(VENV)/.installed-test
	@$(BIN)/yaoki slurmbox install || test -z "$(YAOKI_REQUIRE_SLURM)"

# The tests of the pages need Debian's Chromium; without it they are skipped.
browser:
	@command -v chromium > /dev/null || { test "$$(id -u)" = 0 && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium fonts-dejavu-core; } \
		|| test -z "$(YAOKI_REQUIRE_CHROMIUM)"

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing yaoki and what it needs into $(VENV)"
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info

# The pictures of the README: those of the main job's report, and the report in a browser.
pictures: $(VENV)/.installed-test
	rm -rf build/pictures
	$(BIN)/yaoki run diffusion --runs build/pictures
	mkdir -p docs/pictures
	cp build/pictures/*/report/*.png docs/pictures/
	PYTHONPATH=tests $(BIN)/python -m support.screenshots build/pictures/*/report/index.html docs/pictures
