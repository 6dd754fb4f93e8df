#!/usr/bin/env bash
# Make .venv ready for work: `make setup` calls this when pyproject.toml, constraints.txt or this file has changed.
# PYTHON (default python3) is the interpreter that .venv is made from. A torch that it has, or that .venv has, is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

base="${PYTHON:-python3}"
venv=.venv
torch_version=2.13.0  # installed only where there is none

imports_torch() { "$1" -c 'import torch' 2>/dev/null; }

if ! [ -x "$venv/bin/python" ]; then
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "$base is not Python 3.11 or newer; choose one with: make PYTHON=python3.11" >&2
        exit 2
    }
    if imports_torch "$base"; then
        "$base" -m venv --system-site-packages "$venv"
        if ! imports_torch "$venv/bin/python"; then
            # The base is itself a virtual environment, which --system-site-packages passes over.
            site="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
            "$base" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
                2>/dev/null >"$site/existing_torch.pth"
        fi
    else
        "$base" -m venv "$venv"
    fi
fi

python="$venv/bin/python"
imports_torch "$python" || "$python" -m pip install --quiet --constraint constraints.txt "torch==$torch_version"

# Whatever is installed next may not replace torch: pip has to fail instead.
"$python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$venv/torch.txt"
"$python" -m pip install --quiet --constraint constraints.txt --constraint "$venv/torch.txt" --editable ".[dev]"
echo "ready: $venv with Python $("$python" -c 'import platform; print(platform.python_version())'), $(cat "$venv/torch.txt")"
