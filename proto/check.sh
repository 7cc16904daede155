#!/usr/bin/env bash
# Fail if the code of the server or of the client is not what proto/ generates.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
proto/generate.sh "$fresh"
for code in service/pb client/facesphere_client/pb; do
  if ! diff -r --exclude=__pycache__ --exclude=__init__.py "$fresh/$code/face_embedding" "$code/face_embedding"; then
    echo "$code is out of date: run make proto" >&2
    exit 1
  fi
done
