#!/bin/sh
# Installs ptxas and nvdisasm (tools/ptxas.txt, checked by hash, 52 MB) into .tools/cuda. Run again, it does nothing.
# They assemble and inspect our PTX in tests; the engine needs neither them nor a GPU. PYTHON names the interpreter.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
stamp=.tools/cuda/requirements.txt

if cmp -s tools/ptxas.txt "$stamp"; then
    echo "present: ptxas, nvdisasm"
    exit 0
fi
rm -rf .tools/cuda
if ! "$python" -m venv .tools/cuda; then
    echo "could not make .tools/cuda: Debian and Ubuntu keep the module in the package python3-venv" >&2
    exit 1
fi
.tools/cuda/bin/pip install --disable-pip-version-check --quiet --no-deps --require-hashes -r tools/ptxas.txt
cp tools/ptxas.txt "$stamp"
echo "ready: $(find .tools/cuda -name ptxas -type f)"
