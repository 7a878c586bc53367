#!/usr/bin/env bash
# Runs every test. Prepares what they need: a Python environment whose anndata opens the files that we write, the PTX assembler, and
# the emulated CUDA driver, on which the GPU half of the tests runs.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup-python.sh
tools/setup-cuda.sh
cargo build --release -p scmmgpt-libcuda
export SCMMGPT_PYTHON="$PWD/.venv/bin/python"
export LD_LIBRARY_PATH="$PWD/target/release${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export SCMMGPT_REQUIRE_CUDA=1
if [ $# -eq 0 ]; then
    set -- --workspace
fi
cargo test --release "$@"
