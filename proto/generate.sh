#!/usr/bin/env bash
# Generate from proto/ the code of the server, service/pb, and that of the client, which must not need the server.
# Usage: proto/generate.sh [output folder, default the root of the project]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
root=${1:-.}
proto=face_embedding/v1/face_embedding.proto
server=$root/service/pb
client=$root/client/facesphere_client/pb
mkdir -p "$server" "$client"
"$python" -m grpc_tools.protoc -Iproto --python_out="$server" --pyi_out="$server" --grpc_python_out="$server" $proto
"$python" -m grpc_tools.protoc -Iproto --python_out="$client" --pyi_out="$client" $proto
# protoc imports from the root of the proto tree; here that root is the package service.pb.
sed -i 's/^from face_embedding\.v1 import/from service.pb.face_embedding.v1 import/' \
  "$server"/face_embedding/v1/face_embedding_pb2_grpc.py
for code in "$server" "$client"; do
  touch "$code/face_embedding/__init__.py" "$code/face_embedding/v1/__init__.py"
done
