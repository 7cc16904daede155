#!/usr/bin/env bash
# The API by grpcurl, which asks the server what there is (reflection). Usage: examples/by_grpcurl.sh A.jpg B.jpg, two photos
# of one person; SERVER and FACESPHERE_API_KEY if they differ. Without grpcurl: GRPCURL="python examples/reflect.py".
set -euo pipefail
server=${SERVER:-127.0.0.1:50051}
call() { ${GRPCURL:-grpcurl} -plaintext ${FACESPHERE_API_KEY:+-H "authorization: Bearer $FACESPHERE_API_KEY"} "$@"; }
a=$(base64 -w0 "$1") b=$(base64 -w0 "$2")

call "$server" list
call "$server" describe face_embedding.v1.Gallery
echo '{}' | call -d @ "$server" grpc.health.v1.Health/Check
echo "{\"image\": \"$a\"}" | call -d @ "$server" face_embedding.v1.FaceEmbedding/Detect
echo "{\"a\": {\"image\": \"$a\"}, \"b\": {\"image\": \"$b\"}, \"target_fmr\": 0.0001}" |
  call -d @ "$server" face_embedding.v1.FaceEmbedding/Verify
echo '{"name": "grpcurl", "purpose": "by grpcurl"}' | call -d @ "$server" face_embedding.v1.Gallery/PutCollection
# A stream: a message a line, and answers as they are done.
{
  echo "{\"id\": \"1\", \"request\": {\"collection\": \"grpcurl\", \"subject\": \"alice\", \"probes\": [{\"image\": \"$a\"}]}}"
  echo "{\"id\": \"2\", \"request\": {\"collection\": \"grpcurl\", \"subject\": \"alice\", \"probes\": [{\"image\": \"$b\"}]}}"
} | call -d @ "$server" face_embedding.v1.Gallery/EnrollStream
echo "{\"collection\": \"grpcurl\", \"probe\": {\"image\": \"$b\"}}" | call -d @ "$server" face_embedding.v1.Gallery/Identify
echo '{"name": "grpcurl"}' | call -d @ "$server" face_embedding.v1.Gallery/DeleteCollection
