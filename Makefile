# quickstart: the whole chain on a sample corpus    test: the tests    check: lint, types, house rules
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow check bench format clean

quickstart: $(VENV)/.runtime
	$(BIN)/nlpapp quickstart

test: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable ".[ray,test]"
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

check: $(VENV)/.test
	$(BIN)/ruff check nlpapp tests scripts benchmarks
	$(BIN)/ruff format --check nlpapp tests scripts benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house_rules.py tests/test_layering.py

# BENCH_GLUE="--model FOLDER --data_dir GLUE --output_dir runs/bench/finetuning" compares fine-tuning with transformers' Trainer.
# BENCH_DEPLOYMENT="--minilm FOLDER --peer PYTHON --bare PYTHON" compares bundles with PyTorch and optimum-onnx.
# BENCH_TRANSFORMER_XL="--original FOLDER/pytorch" compares the speed of a Transformer-XL with its authors' code.
# BENCH_LANGUAGE_MODEL="--data WIKITEXT-2 --original FOLDER/pytorch --sides ours original" trains both for an hour each.
# BENCH_DATA="--bert CHECKOUT --vocabulary vocab.txt --novels FOLDER" compares make-data with the original script.
bench: $(VENV)/.test
	$(BIN)/python benchmarks/pretraining_step.py
	$(BIN)/python benchmarks/pretraining_data.py $(BENCH_DATA)
	$(BIN)/python benchmarks/feature_extraction.py
	$(if $(BENCH_GLUE),$(BIN)/python benchmarks/finetuning.py $(BENCH_GLUE))
	$(if $(BENCH_DEPLOYMENT),$(BIN)/python benchmarks/deployment.py $(BENCH_DEPLOYMENT))
	$(BIN)/python benchmarks/serving.py --fuzz-seconds 0
	$(BIN)/python benchmarks/language_model_evaluation.py --threads 1
	$(BIN)/python benchmarks/language_model_generation.py --threads 1
	$(if $(BENCH_TRANSFORMER_XL),$(BIN)/python benchmarks/transformer_xl.py --threads 1 $(BENCH_TRANSFORMER_XL))
	$(if $(BENCH_LANGUAGE_MODEL),$(BIN)/python benchmarks/language_model_budget.py $(BENCH_LANGUAGE_MODEL))

format: $(VENV)/.test
	$(BIN)/ruff check --fix nlpapp tests scripts benchmarks
	$(BIN)/ruff format nlpapp tests scripts benchmarks

clean:
	rm -rf $(VENV) runs build *.egg-info

# Every version is pinned by requirements.lock, whether asked for here or needed by another package.
$(VENV)/.runtime: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable .
	touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable ".[test]"
	touch $@
