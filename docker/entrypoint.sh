#!/bin/sh
# What the container runs: `facesphere` with the arguments given to it.
#
#     serve      the server; at the first start a key for everything is made, and printed once on stderr
#     prepare    the key and the models alone: for several servers that are started after it, on one database
set -eu

first_key() {
    # Where somebody has chosen a key for everything, none is needed.
    [ -n "${FACESPHERE_API_KEY:-}" ] || facesphere keys create first --scope admin --first >&2
}

case "${1:-serve}" in
prepare)
    first_key
    exec facesphere models pull
    ;;
serve) first_key ;;
esac
exec facesphere "$@"
