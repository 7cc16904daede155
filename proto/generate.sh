#!/usr/bin/env bash
# Generate service/pb from proto/. Usage: proto/generate.sh [output folder, default service/pb]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${1:-service/pb}
mkdir -p "$out"
"$python" -m grpc_tools.protoc -Iproto --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
  proto/face_embedding/v1/face_embedding.proto
# protoc imports from the root of the proto tree; here that root is the package service.pb.
sed -i 's/^from face_embedding\.v1 import/from service.pb.face_embedding.v1 import/' \
  "$out"/face_embedding/v1/face_embedding_pb2_grpc.py
touch "$out/face_embedding/__init__.py" "$out/face_embedding/v1/__init__.py"
