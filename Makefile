# One command makes the book:  make book        One command tests everything:  make test
PYTHON  ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV    ?= .venv
JOBS    ?= 2
BIN      = $(VENV)/bin
HTML     = _build/html/index.html

# CPU-only or another CUDA build of torch: make setup TORCH_INDEX=<wheel index from PyTorch's install page>
TORCH_INDEX ?=
# uv when it is there (seconds instead of minutes), else pip
UV      := $(shell command -v uv 2>/dev/null)
INSTALL  = $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check)
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

# The same in every target, so that a build and its check do the same arithmetic. Chapters run JOBS at a
# time with one thread each: round-off then does not depend on the number of cores.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
export PYTHONHASHSEED = 0
export HF_HUB_OFFLINE = 1
export HF_DATASETS_OFFLINE = 1
export HF_HUB_DISABLE_PROGRESS_BARS = 1
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

PYTEST   = $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile
NBVAL    = --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg

.PHONY: help setup book chapters html test check smoke links unit study errors architectures nbval lint package real gpu torture pdf clean
.NOTPARALLEL:

help:            ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 15

setup: $(VENV)/.ok ## make the environment in .venv, with the seqedit command
$(VENV)/.ok: constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -q -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(INSTALL) -q -c constraints.txt -e '.[book,test,browser]'
	@touch $@

book: chapters html ## execute every chapter and render the book
	@echo "The book is ready: open $(HTML)"

chapters: setup  ## execute every chapter with the book's parameters, write chapters/*.ipynb
	$(BIN)/python tools/chapters.py build -j $(JOBS)

# --all: a page kept from an earlier build would hide its warnings
html: check      ## render from the committed notebooks, executing nothing
	$(BIN)/jupyter-book build . --all -W -n --keep-going -q

check: setup     ## the committed notebooks were made from the texts
	$(BIN)/python tools/chapters.py check

smoke: setup     ## execute the slow chapters with small parameters
	$(BIN)/python tools/chapters.py smoke -j $(JOBS)

links: html      ## links, anchors and pictures inside the rendered book
	$(BIN)/python tools/links.py _build/html

lint: setup      ## style, format and types
	$(BIN)/ruff check seqedit tools tests setup.py
	$(BIN)/ruff format --check seqedit tools tests setup.py
	$(BIN)/mypy

package: setup   ## build wheel and source archive, install each elsewhere, run the README's program
	$(BIN)/python tools/check_package.py

unit: setup      ## the unit tests alone
	$(PYTEST) tests

study: setup     ## make the records that chapters read, those that are missing; QUICK=1: a few edits each
	$(BIN)/seqedit study all -j $(JOBS) $(if $(QUICK),--quick)

errors: setup    ## measure again how far each method is from its oracle and from released numbers
	$(BIN)/python -m pytest -q tests/test_methods.py tests/test_editors.py tests/test_lyaplock.py tests/test_golden.py \
		tests/test_restrain.py tests/test_key_adaptor.py tests/test_loop_of_methods.py tests/test_robustness.py \
		tests/test_epochs.py tests/test_low_curvature.py tests/test_curvature.py tests/test_rerun.py tests/test_stableedit.py \
		tests/test_joint_targets.py tests/test_pilot_anchor.py tests/test_in_context.py \
		--record-errors data/errors.json

architectures: setup ## make the tables of architectures again from what the tests find
	$(BIN)/python -m pytest -q tests/test_architecture.py --record-architectures data/architectures.md

nbval: setup     ## re-execute the committed notebooks and compare every output
	$(PYTEST) $(NBVAL) chapters

real: setup      ## get SmolLM2 and edit sixty facts by three methods; table, page and what it says
	$(BIN)/seqedit model get smollm2-135m
	$(BIN)/seqedit side-by-side memit memit_seq alphaedit --out data/runs/real -j $(JOBS)

# The machine's own packages, since a machine with a GPU may have no package index
gpu:             ## on a machine with a GPU: its tests, rounds at full size; resumes; record in data/gpu.json
	PYTHONPATH=$(CURDIR) $(PYTHON) -m seqedit bench gpu --out data/gpu.json

torture: setup   ## kill, fill, damage: every command that writes, on tiny models; record in data/torture.json
	$(BIN)/python tools/torture.py

test: lint package smoke links ## everything that CI runs; pytest, with units and notebooks, comes last
	$(PYTEST) $(NBVAL) tests chapters

pdf: check       ## one PDF of the book (needs chromium)
	$(BIN)/jupyter-book build . --all -W -n --keep-going -q --builder singlehtml
	chromium --headless --no-sandbox --disable-gpu --virtual-time-budget=20000 --no-pdf-header-footer \
		--print-to-pdf=_build/seqedit.pdf _build/singlehtml/index.html

clean:           ## remove what the targets built (the environment stays)
	rm -rf _build build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
