#!/bin/sh
# Makes .venv/ with what the Python scripts of this repository import, at exact versions. Run again, it installs only what is missing.
#
#   tools/setup-python.sh            golden-file and fixture checks, comparisons with scikit-learn
#   tools/setup-python.sh --torch    also PyTorch and PEFT, for compare_with_pytorch.py, the golden scripts, and the test that lets
#                                    PEFT open our adapters (several GB)
#
# PYTHON names the interpreter; the default is python3. The engine needs none of it; one test lets anndata open what we write.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
packages="numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 h5py==3.16.0 anndata==0.12.19 scikit-learn==1.9.1 safetensors==0.8.0"

case "${1:-}" in
"") ;;
--torch) packages="$packages torch==2.14.1 transformers==5.24.0 peft==0.21.2" ;;
*)
    echo "usage: tools/setup-python.sh [--torch]" >&2
    exit 2
    ;;
esac

if [ ! -x .venv/bin/pip ]; then
    echo "making .venv with $("$python" --version)"
    if ! "$python" -m venv .venv; then
        echo "could not make .venv: Debian and Ubuntu keep the module in the package python3-venv" >&2
        exit 1
    fi
fi

installed=$(.venv/bin/pip freeze --disable-pip-version-check)
missing=""
for package in $packages; do
    if printf '%s\n' "$installed" | grep -iqx "$package"; then
        echo "present: $package"
    else
        missing="$missing $package"
    fi
done

if [ -n "$missing" ]; then
    echo "installing:$missing"
    # Unquoted: one word a package.
    .venv/bin/pip install --disable-pip-version-check --quiet $missing
fi
echo "ready: .venv/bin/python"
