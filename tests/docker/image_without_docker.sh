#!/usr/bin/env bash
# Builds the server's image without Docker and starts it twice as Compose would: root read-only, three volumes, /tmp in
# memory, user 10001, no capabilities, no network. Debian's own Python takes the place of the base image, which is not
# to be had without a registry. Wants root, buildah and debootstrap; FOLDER gets about 3 GB.
#
#     tests/docker/image_without_docker.sh FOLDER
set -euo pipefail
work="$(realpath "$1")"
cd "$(dirname "$0")/../.."
export BUILDAH_ISOLATION=chroot
# vfs: slower than overlay, and works on any file system.
store=(--storage-driver vfs --root "$work/storage" --runroot "$work/run")
printf '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/policy.json"

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/debian" >"$work/debian.log"
cp -L /etc/ssl/certs/ca-certificates.crt "$work/debian/etc/ssl/certs/"
base="$(buildah "${store[@]}" from scratch)"
buildah "${store[@]}" add --quiet "$base" "$work/debian" / >/dev/null
buildah "${store[@]}" config --env PATH=/usr/bin:/bin:/usr/sbin:/sbin --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$base"
buildah "${store[@]}" commit --quiet --rm --signature-policy "$work/policy.json" "$base" localhost/base >/dev/null
buildah "${store[@]}" bud --quiet --signature-policy "$work/policy.json" --network host --file docker/Dockerfile \
  --ignorefile docker/Dockerfile.dockerignore --build-arg PYTHON_IMAGE=localhost/base --target cpu --tag localhost/cpu . >/dev/null
image="$(buildah "${store[@]}" from --signature-policy "$work/policy.json" localhost/cpu)"
root="$(buildah "${store[@]}" mount "$image")"
echo "built: $(du -sh "$root" | cut -f1)"

mkdir -p "$work"/volumes/{data,keys,models}
chown 10001:10001 "$work"/volumes/*
for start in first second; do
  echo "$start start"
  unshare --mount --net --pid --fork bash -c '
    set -e
    ip link set lo up
    mount --bind "$0" /mnt && mount -o remount,bind,ro /mnt
    for volume in data keys models; do mount --bind "$1/volumes/$volume" "/mnt/$volume"; done
    mount -t tmpfs -o mode=1777 tmp /mnt/tmp && mount -t proc proc /mnt/proc && mount -t tmpfs dev /mnt/dev
    mknod -m 666 /mnt/dev/null c 1 3 && mknod -m 444 /mnt/dev/urandom c 1 9
    exec env -i PATH=/opt/facesphere/bin:/usr/sbin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
      XDG_CACHE_HOME=/opt/facesphere/cache FACESPHERE_HOST=0.0.0.0 FACESPHERE_DATA_DIR=/data FACESPHERE_KEYS_DIR=/keys \
      FACESPHERE_MODELS_DIR=/models chroot /mnt setpriv --reuid 10001 --regid 10001 --clear-groups --bounding-set=-all \
      --inh-caps=-all --no-new-privs sh -c "
        /opt/facesphere-image/entrypoint.sh serve & server=\$!
        for second in \$(seq 60); do
          sleep 1
          if python3 /opt/facesphere-image/healthcheck.py 2>/dev/null; then echo healthy; break; fi
        done
        touch /opt/facesphere/x 2>&1
        kill -TERM \$server
        wait \$server
        echo exit status \$?"
  ' "$root" "$work" 2>&1
done
