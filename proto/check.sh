#!/usr/bin/env bash
# Fail if service/pb is not what proto/ generates.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
proto/generate.sh "$fresh"
if ! diff -r --exclude=__pycache__ --exclude=__init__.py "$fresh/face_embedding" service/pb/face_embedding; then
  echo "service/pb is out of date: run make proto" >&2
  exit 1
fi
