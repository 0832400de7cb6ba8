# The single door: `just` lists what is behind it.

# Where the tests and benches find their models.
export TIMBRE_TEST_MODELS := env("TIMBRE_TEST_MODELS", justfile_directory() / "target/models")
# Where the Python checks find their packages: nothing is installed outside target/.
python_packages := justfile_directory() / "target/python"
# Python with llama-cpp-python, the peer of the benches.
peers_python := env("TIMBRE_PEERS_PYTHON", justfile_directory() / "target/peers/bin/python")
# Python with torch, transformers, peft and gguf, the peer in fine-tuning.
torch_python := env("TIMBRE_TORCH_PYTHON", justfile_directory() / "target/torch/bin/python")
# What the applications load.
native_library := if os() == "windows" { "timbre_bindings.dll" } else if os() == "macos" { "libtimbre_bindings.dylib" } else { "libtimbre_bindings.so" }
python := if os() == "windows" { "python" } else { "python3" }

_list:
    @just --list --unsorted

# Fetch a small model once, answer one prompt in three voices, show what each swap costs
demo:
    cargo run --release -p timbre-cli -- demo

# Fetch the models, then run every test
test: models && test-python
    cargo test --release --workspace

# Fetch the models of the tests and benches (350 MB, once)
models:
    cargo run --release -p timbre-cli -- fetch all --dir "{{ TIMBRE_TEST_MODELS }}"

# Check with Python's own safetensors that a saved PEFT directory holds the bits it was loaded from
test-python: _python
    {{ python }} -c "import os, shutil; shutil.rmtree('target/roundtrip', True); os.makedirs('target/roundtrip')"
    cargo run --release -p timbre-cli -- adapter convert assets/adapters/devil target/roundtrip/devil
    cargo run --release -p timbre-cli -- adapter convert assets/adapters/kjv target/roundtrip/kjv
    {{ python }} core/tests/python/peft_roundtrip.py --packages "{{ python_packages }}" assets/adapters/devil target/roundtrip/devil
    {{ python }} core/tests/python/peft_roundtrip.py --packages "{{ python_packages }}" assets/adapters/kjv target/roundtrip/kjv

# Compile the Kotlin layer and run its tests on the JVM, against the real library and models (needs a JDK, JNA and JUnit)
test-kotlin: models
    cargo build --release -p timbre-bindings -p timbre-bindgen
    {{ python }} android/jvm/test.py "target/release/{{ native_library }}" target/release/timbre-bindgen

_python:
    {{ python }} core/tests/python/peft_roundtrip.py --packages "{{ python_packages }}" --check || {{ python }} -m pip install --quiet --upgrade --target "{{ python_packages }}" numpy safetensors

# Build and test the Swift package on Linux (in a Debian sid in target/, where there is no Swift) or macOS
test-swift: models
    .ci/swift

# Generate the Swift of the bindings anew, which is committed
swift-bindings:
    .ci/swift --generate

# Compile the bindings for phones, link what needs no SDK, hold its size to a limit; --gpu with the GPU backend
cross-mobile *arguments:
    .ci/cross-mobile {{ arguments }}

# Formatting, lints and documentation, all without a warning
lint: _doc
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

_doc $RUSTDOCFLAGS="-D warnings":
    cargo doc --release --workspace --no-deps

# Check that the core and the command line compile with an older Rust, which rustup has (`just msrv 1.89`)
msrv version:
    cargo +{{ version }} check -p timbre-core -p timbre-cli --target-dir target/msrv

# Run the core's tests as AArch64 programs under qemu, on a CPU with the optional instructions and on one without; --check lints them
cross-arm64 *arguments:
    .ci/cross-arm64 {{ arguments }}

# Everything that a change must pass
ci: test lint (cross-arm64 "--check")

# Build the fuzz targets (running them takes cargo-fuzz and a nightly compiler)
fuzz-check:
    cargo check --release --manifest-path fuzz/Cargo.toml --target-dir target

# Measure: every kernel, then latency, memory and swaps of whole models
bench *arguments: models
    cargo bench -p timbre-benches {{ arguments }}

# Measure beside llama.cpp (built for this machine, once) and candle on the same files, then draw the chart; Linux only
bench-peers *arguments: models _peers && bench-chart
    {{ peers_python }} benches/peers/compare.py --model "{{ TIMBRE_TEST_MODELS }}/SmolLM2-135M-Instruct.Q4_1.gguf" --adapter assets/adapters/devil --out benches/results/smollm2-q4_1.json {{ arguments }}
    {{ peers_python }} benches/peers/compare.py --model "{{ TIMBRE_TEST_MODELS }}/gemma-3-270m-Q4_K_M.gguf" --out benches/results/gemma3-q4_k_m.json {{ arguments }}

_peers:
    {{ peers_python }} -c "import llama_cpp" || { {{ python }} -m venv target/peers && CMAKE_ARGS="-DGGML_NATIVE=ON" target/peers/bin/python -m pip install llama-cpp-python==0.3.36; }
    cargo build --release -p timbre-cli
    cargo build --release -p timbre-benches --examples

# Fine-tune beside PEFT on the same file and texts (installs torch, once); Linux only
bench-tune *arguments: models
    {{ torch_python }} -c "import peft, gguf" || { {{ python }} -m venv target/torch && target/torch/bin/python -m pip install --quiet torch transformers peft==0.21.2 gguf; }
    cargo build --release -p timbre-cli
    {{ torch_python }} benches/peers/tune.py --model "{{ TIMBRE_TEST_MODELS }}/SmolLM2-135M-Instruct.Q4_1.gguf" --out benches/results/tune/smollm2-devil.json {{ arguments }}

# Draw benches/results/chart.svg from what bench-peers recorded
bench-chart:
    cargo run --release -p timbre-benches --example chart
