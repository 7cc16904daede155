#!/usr/bin/env bash
# The API by curl. Usage: examples/by_curl.sh A.jpg B.jpg, two photos of one person; SERVER and FACESPHERE_API_KEY if they differ.
set -euo pipefail
server=${SERVER:-http://127.0.0.1:8000}
call() { curl --silent --show-error --fail-with-body ${FACESPHERE_API_KEY:+--header "Authorization: Bearer $FACESPHERE_API_KEY"} "$@"; echo; }

# Where are the faces? As a part of a form, or as the body itself.
call --form image=@"$1" "$server/detect"
call --header "content-type: image/jpeg" --data-binary @"$1" "$server/detect"
# Their vectors, as base64 of little-endian float32.
call --form image=@"$1" "$server/embed?faces=largest&encoding=base64"
# Several photos in one call.
call --form images=@"$1" --form images=@"$2" "$server/embed/batch"
# One person? Wrong for at most 1 in 10,000 pairs of strangers.
call --form image_a=@"$1" --form image_b=@"$2" --form target_fmr=0.0001 "$server/verify"
# A gallery: make it, enrol, ask, export, erase.
call --request PUT --header "content-type: application/json" --data '{"purpose": "by curl", "retention_days": 30}' \
  "$server/collections/curl"
call --form images=@"$1" --form consent=form-17 --form idempotency_key=photo-1 "$server/collections/curl/subjects/alice/faces"
call --form image=@"$2" "$server/collections/curl/identify"
call --form image=@"$2" "$server/collections/curl/subjects/alice/verify"
call "$server/collections/curl/subjects/alice/export"
call --request DELETE "$server/collections/curl/subjects/alice"
call --request DELETE "$server/collections/curl"
