#!/usr/bin/env bash
# Runs every test. Prepares what they need: a Python environment whose anndata opens the files that we write.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup-python.sh
export SCMMGPT_PYTHON="$PWD/.venv/bin/python"
cargo test --release --workspace "$@"
