# Everything that is run on this project. It needs Python >= 3.11 (`make compat` and `make mage`: 3.11
# or 3.12) and make; the environments are built from the pinned versions in constraints/.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
UV_VERSION := 0.13.9
UV := .env/uv-$(UV_VERSION)/bin/uv
# Processes that share the unit tests, which compute: in virtual time nothing waits. A container may have less than
# it shows, and each takes some 300 MB.
JOBS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? cores : 4)))
# How `make test` calls pytest, and `make steady` too.
SUITE := --numprocesses $(JOBS)

AIRFLOW := .venv
COMPAT := .env/airflow-2.11
CHALKPY := .env/chalkpy
PARADIME := .env/paradime
STRAIT := .env/strait
MAGE_AI := .env/mage
BENCH := .env/bench
PUBLISH := .env/publish
# Beside `make test` and Airflow 2.11: other versions of Airflow, then every Python with Airflow 3.3. A Python
# that is neither in the path nor one of pyenv's is named and passed by.
VERSIONS := airflow-3.0 airflow-3.1 airflow-3.2 lowest
PYTHONS := python3.11 python3.12 python3.13
found = $(shell for python in $(1) $${PYENV_ROOT:-$$HOME/.pyenv}/versions/*/bin/$(1); do \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null && echo "$$python" && break; done)

TESTED := -e '.[simulator,openlineage]' --group test
PROJECT := $(TESTED) --group check

# Airflow starts three times slower where bytecode may not be written.
unexport PYTHONDONTWRITEBYTECODE
# uv must not fetch a Python of its own.
export UV_PYTHON_DOWNLOADS := never

# No Airflow and no network: every branch is tested.
PURE := */core/*,*/api.py,*/mage/answers.py,*/mage/lists.py,*/mage/lookups.py,*/mage/reasons.py,*/mage/retries.py,*/paradime/answers.py,*/paradime/artifacts.py,*/paradime/controls.py,*/paradime/lists.py,*/paradime/lookups.py,*/paradime/operations.py,*/paradime/reasons.py,*/strait/answers.py,*/strait/controls.py,*/strait/details.py,*/strait/lists.py,*/strait/replays.py,*/strait/reasons.py,*/strait/streams.py

.DEFAULT_GOAL := help
.PHONY: help test coverage fuzz steady mutants check vendor mage compat matrix system browser crash bench soak demo dist all tables clean
# What is not for people.
.PHONY: crash-cases crash-others crash-kills environments

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

## While you work: make test, and the target of what you change. Before a change lands: bash .ci/run, which has
## a sample of the crash bench. After a change to tests or to what waits: make coverage, make steady, and make steady LOAD=4. Before a
## release, or after a change to how runs are started, kept or cancelled: make all.
##

## make test     the unit tests on Airflow 3.3
test: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m pytest $(SUITE)

## make coverage the unit tests with branch coverage, in twice the time: 100 % of what is pure, 99 % of all
coverage: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m pytest $(SUITE) --cov --cov-fail-under=99
	$(AIRFLOW)/bin/coverage report --include='$(PURE)' --fail-under=100

## make steady   the unit tests RUNS=5 times in random order; LOAD=4 busy processes beside them; HALF_CORE=1: half a core
steady: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m tools.steady $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(LOAD),--load $(LOAD)) $(if $(HALF_CORE),--half-core) -- $(SUITE)

## make mutants  how many of COUNT=300 small faults in the modules that judge the tests see; SEED=8: others
mutants: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m tools.mutants $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT))

## make fuzz     starts against 2,000 answers for each HTTP library that were damaged at random; SEED=8: others
fuzz: $(AIRFLOW)/.installed
	FUZZ_CASES=2000 SEED=$(or $(SEED),20) $(AIRFLOW)/bin/python -m pytest $(SUITE) tests/core/test_fuzz.py

## make check    lint, format, types
check: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/ruff check
	$(AIRFLOW)/bin/ruff format --check
	$(AIRFLOW)/bin/mypy

## make compat   what differs most on Airflow 2.11: the contract, the base classes and the core
compat: $(COMPAT)/.installed
	$(COMPAT)/bin/python -m pytest $(SUITE) tests/test_contract.py tests/base tests/core

## make matrix   the unit tests on every Airflow from 2.11 to 3.3, on the oldest dependencies, and on Python 3.12, 3.13
matrix: test matrix-airflow-2.11 $(addprefix matrix-,$(VERSIONS) $(PYTHONS))
	@echo "== not on this machine: $(or $(strip $(foreach python,$(PYTHONS),$(if $(call found,$(python)),,$(python)))),none)"

matrix-airflow-2.11: $(COMPAT)/.installed
	@echo "== airflow-2.11"
	$(COMPAT)/bin/python -m pytest --quiet $(SUITE)

matrix-%:
	@if [ -z "$(if $(filter $*,$(PYTHONS)),$(call found,$*),$*)" ]; then \
		echo "== $*: not on this machine"; \
	else \
		echo "== $*" && $(MAKE) --no-print-directory .env/matrix/$*/.installed && \
		.env/matrix/$*/bin/python --version && \
		.env/matrix/$*/bin/python -m pytest --quiet $(SUITE); \
	fi

## make vendor   the simulators against the vendors' own, unmodified clients
vendor: $(CHALKPY)/.installed $(PARADIME)/.installed $(STRAIT)/.installed
	$(CHALKPY)/bin/python -m pytest tests/vendor/test_chalkpy.py
	$(PARADIME)/bin/python -m pytest tests/vendor/test_paradime_io.py tests/vendor/test_paradime_provider.py
	$(STRAIT)/bin/python -m pytest tests/vendor/test_strait_python.py

## make mage     the Mage tests against a real Mage server
mage: $(AIRFLOW)/.installed $(MAGE_AI)/.installed
	MAGE_PYTHON=$(MAGE_AI)/bin/python $(AIRFLOW)/bin/python -m pytest tests/real --numprocesses 3 --dist loadfile \
		--no-loadscope-reorder

## make system   the tests that need real Airflow processes
system: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m pytest tests/system

## make browser  the web pages in Debian's chromium; SCREENSHOTS=docs/images renews the README's pictures
browser: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m pytest tests/browser $(if $(SCREENSHOTS),--screenshots $(SCREENSHOTS))

## make crash    the crash bench; FIXED=1: few cases that stand for all, SAMPLE=20: random ones, or besides the fixed,
##               SEED=7: the same again; WAITS=300: so many waits at once instead of 1,000; KILLS=20: so many tasks of
##               each system ended at once instead of 300; AT_ONCE=1: what is not one of these cases one after the other
crash: crash-cases crash-others crash-kills

crash-cases: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m pytest tests/crash/test_crash.py -q --tb=line $(if $(FIXED),--fixed) \
		$(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) \
		$(if $(WIDTH),--width $(WIDTH))

# Many waits and secrets.
crash-others: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m pytest tests/crash --ignore=tests/crash/test_crash.py --ignore=tests/crash/test_many_kills.py \
		-q --numprocesses $(or $(AT_ONCE),3) --dist loadgroup $(if $(WAITS),--waits $(WAITS))

crash-kills: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m pytest tests/crash/test_many_kills.py -q --capture=no $(if $(KILLS),--kills $(KILLS))

## make bench    what waiting costs, beside other providers; BENCH_ARGUMENTS="--runs 1000 --scenario equal"
bench: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks $(BENCH_ARGUMENTS)

## make soak     whether the memory of thousands of waits grows: ten minutes
soak: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks.soak

## make demo     the example DAGs on a real Airflow; UI=1 keeps its web interface up, MAGE=real adds a real Mage
demo: $(AIRFLOW)/.installed $(if $(filter real,$(MAGE)),$(MAGE_AI)/.installed)
	$(AIRFLOW)/bin/python -m tools.demo $(if $(UI),--ui) $(if $(filter real,$(MAGE)),--mage-python $(MAGE_AI)/bin/python)

## make dist     the wheel and the sdist, checked, and the example DAGs from the wheel in a bare environment
dist: $(AIRFLOW)/.installed $(PUBLISH)/.installed
	rm -rf dist
	$(PUBLISH)/bin/python -m build --no-isolation
	$(PUBLISH)/bin/twine check --strict dist/*
	$(AIRFLOW)/bin/python -m pytest tests/published

## make all      all of the above that .ci/run does not run, or not in full: hours
all: coverage steady crash matrix mutants bench soak

## make tables   writes the status words in README.rst from the code
tables: $(AIRFLOW)/.installed
	$(AIRFLOW)/bin/python -m tools.status_tables

## make clean    removes the environments and everything that was built
clean:
	rm -rf .venv .env .demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov

# What bash .ci/run needs.
environments: $(AIRFLOW)/.installed $(COMPAT)/.installed $(CHALKPY)/.installed $(PARADIME)/.installed \
	$(STRAIT)/.installed $(MAGE_AI)/.installed $(PUBLISH)/.installed

# $(call build,folder,arguments of uv pip install). Where several processes load the same at once, all is
# compiled before; elsewhere each module when it is loaded: of Mage's and the vendors' most never are.
define build
	$(python) -m venv --clear --without-pip $(1)
	$(UV) pip install --quiet --python $(1)/bin/python $(2)
	touch $@
endef
python = $(or $(PYTHON),$(error no Python >= 3.11 with venv was found; name one: make PYTHON=/path/to/python))

$(UV):
	$(python) -m venv --clear $(UV:/bin/uv=)
	$(UV:/uv=/python) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(AIRFLOW)/.installed: pyproject.toml constraints/airflow-3.3.txt | $(UV)
	$(call build,$(AIRFLOW),--compile-bytecode uv==$(UV_VERSION) -c constraints/airflow-3.3.txt $(PROJECT) --group steady --group mutants --group crash --group browser)

$(COMPAT)/.installed: pyproject.toml constraints/airflow-2.11.txt | $(UV)
	$(call build,$(COMPAT),--compile-bytecode -c constraints/airflow-2.11.txt $(PROJECT))

$(VERSIONS:%=.env/matrix/%/.installed): .env/matrix/%/.installed: pyproject.toml constraints/%.txt | $(UV)
	$(call build,.env/matrix/$*,--compile-bytecode -c constraints/$*.txt $(TESTED))

$(PYTHONS:%=.env/matrix/%/.installed): override PYTHON = $(call found,$*)
$(PYTHONS:%=.env/matrix/%/.installed): .env/matrix/%/.installed: pyproject.toml constraints/airflow-3.3.txt | $(UV)
	$(call build,.env/matrix/$*,--compile-bytecode -c constraints/airflow-3.3.txt $(TESTED))

$(BENCH)/.installed: pyproject.toml constraints/bench.txt | $(UV)
	$(call build,$(BENCH),-e . -r constraints/bench.txt)

$(PUBLISH)/.installed: constraints/dist.txt | $(UV)
	$(call build,$(PUBLISH),-r constraints/dist.txt)

$(CHALKPY)/.installed: constraints/chalkpy.txt | $(UV)
	$(call build,$(CHALKPY),-r constraints/chalkpy.txt)

$(PARADIME)/.installed: constraints/paradime.txt | $(UV)
	$(call build,$(PARADIME),-r constraints/paradime.txt)

$(STRAIT)/.installed: constraints/strait.txt | $(UV)
	$(call build,$(STRAIT),-r constraints/strait.txt)

# Some of Mage's dependencies cannot be built from source on a current Python.
$(MAGE_AI)/.installed: constraints/mage.txt | $(UV)
	$(call build,$(MAGE_AI),--only-binary :all: -r constraints/mage.txt)
