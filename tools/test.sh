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
if [ $# -gt 0 ]; then
    cargo test --release "$@"
    exit
fi
cargo test --release --workspace
# The same kernels in other legal orders of warps and CTAs, with other sums inside matrix instructions and other errors of approximate functions.
while read -r seed mma approx; do
    echo "schedule $seed, matrix sums $mma, approximate functions $approx"
    SCMMGPT_EMULATOR_SEED=$seed SCMMGPT_EMULATOR_MMA=$mma SCMMGPT_EMULATOR_APPROX=$approx cargo run --release --quiet -- doctor --device cuda
done <<'END'
1 exact highest
2 blocks lowest
END
