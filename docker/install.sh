#!/bin/sh
# The steps of the Dockerfile, so that both families of images share them and a test can run them outside an image.
#
#     install.sh requirements FILE     a virtual environment with exactly what FILE pins, every file by its SHA-256
#     install.sh torch SPEC INDEX      PyTorch; INDEX may be empty
#     install.sh project FOLDER        the project, and the default models, so that a container needs no network
#     install.sh user                  who the container runs as, and folders that are theirs
set -eu
home="${FACESPHERE_HOME:-/opt/facesphere}"
pip() { "$home/bin/python" -m pip --disable-pip-version-check --no-cache-dir "$@"; }

case "$1" in
requirements)
    [ -e "$home" ] || python3 -m venv "$home"
    pip install --quiet --require-hashes --requirement "$2"
    ;;
torch)
    pip install --quiet ${3:+--extra-index-url "$3"} "$2"
    ;;
project)
    pip install --quiet --no-deps --no-build-isolation "$2"
    scratch="$(mktemp -d)"
    XDG_CACHE_HOME="$home/cache" "$home/bin/facesphere" models pull --data-dir "$scratch"
    rm -rf "$scratch"
    chmod -R a+rX "$home/cache"
    ;;
user)
    groupadd --gid 10001 facesphere
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin facesphere
    install --directory --owner 10001 --group 10001 --mode 0700 /data /keys /models /jobs
    ;;
*)
    echo "install.sh: unknown step $1" >&2
    exit 2
    ;;
esac
