#!/usr/bin/env bash
# Pins what the images install, by versions and SHA-256s, for Python 3.11 and later. Run it by `make lock`.
set -euo pipefail
cd "$(dirname "$0")/requirements"
lock() {
  ../../.venv/bin/uv pip compile ../../pyproject.toml build.in --quiet --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --extra postgres --extra tracing "$@"
}
lock "$@" --extra cpu --output-file cpu.txt
# The newest build of ONNX Runtime for CUDA 12; later ones want the CUDA 13 of another base image.
lock "$@" --extra gpu-image --constraint cuda12.txt --output-file gpu.txt
# PyTorch comes from an index of its own, and with what it needs; the rest is as in the server's image.
lock "$@" --extra cpu --extra train --constraint cpu.txt --override without-torch.txt --output-file train.txt
