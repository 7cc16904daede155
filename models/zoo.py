"""The models that come with the project: the default ones, and small ones of our own.

The manifests of the defaults lie in models/defaults; their weights are fetched from their source on the user's machine,
checked against the pinned SHA-256, rewritten to a plain float graph and checked again. Models that we trained lie in
models/shipped, weights and card included. A source is written as one string:

    pypi:PROJECT==VERSION#MEMBER     a file inside a wheel, fetched with pip (which knows the user's mirrors)
    https://...                      a file on a server
    any other text                   a path on this machine
"""

import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import bundle as bundles
from models import onnx_graph
from models.bundle import Manifest
from models.errors import ModelNotFoundError, SourceError
from models.registry import Registry

DEFAULT_DETECTOR = "yunet-2023mar"
DEFAULT_EMBEDDER = "sface-2021dec"
MAX_DOWNLOAD = 2**30
_TIMEOUT_S = 600
_DEFAULTS = Path(__file__).parent / "defaults"
_SHIPPED = Path(__file__).parent / "shipped"

Report = Callable[[str], None]


def default_ids() -> tuple[str, ...]:
    """Names of the models that the service uses if not told otherwise."""
    return (DEFAULT_DETECTOR, DEFAULT_EMBEDDER)


def shipped_ids() -> tuple[str, ...]:
    """Names of the models whose weights come with the project."""
    return tuple(sorted(folder.parent.name for folder in _SHIPPED.glob(f"*/{bundles.MANIFEST}")))


def known_ids() -> tuple[str, ...]:
    """Names of all models that `pull` knows."""
    return (*default_ids(), *shipped_ids())


def known_manifest(model_id: str) -> Manifest:
    """The manifest of a model that `pull` knows, calibration and licence included, without its weights.

    Raises:
        ModelNotFoundError: not one of them.
    """
    if model_id not in known_ids():
        raise ModelNotFoundError(f"{model_id!r} is not known; models to be had are {', '.join(known_ids())}")
    return bundles.read_manifest(_folder(model_id) / bundles.MANIFEST)


def pull(registry: Registry, model_id: str, source: str | None = None, report: Report | None = None) -> Manifest:
    """Fetch a model into the registry; a default one is promoted if its kind has no champion yet.

    Where its weights are there already, its manifest becomes the one that this version ships.

    Args:
        registry: where it goes.
        model_id: one of `known_ids`.
        source: another place that carries the same file; the pinned digest must match all the same.
        report: called with a line on each step.

    Raises:
        ModelNotFoundError: not one of them.
        SourceError: the source cannot be reached, or carries another file.
    """
    say = report or (lambda _: None)
    manifest = known_manifest(model_id)
    known = {each.id: each for each in registry.list()}
    if model_id not in known:
        registry.add(_weights(manifest, source, say), manifest, bundles.Bundle(_folder(model_id), manifest).card())
    elif known[model_id] != manifest:
        registry.replace_manifest(manifest)
    if model_id in default_ids() and registry.champion(manifest.kind) is None:
        registry.promote(model_id)
    say(f"{model_id}: ready ({manifest.kind}, contract {manifest.contract_id}, {manifest.licence.spdx})")
    return manifest


def fetch(source: str) -> bytes:
    """The bytes of a source.

    Raises:
        SourceError: it cannot be reached or read, in one line.
    """
    if source.startswith("pypi:"):
        return _from_pypi(source.removeprefix("pypi:"))
    if source.startswith("https://"):
        return _from_url(source)
    if "://" in source:
        raise SourceError(f"{source}: only pypi:, https:// and local files are read")
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {source}: {error.strerror}") from error


def cache_folder() -> Path:
    """Where rewritten default models are kept, so that a second data folder costs no second download."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facesphere"


def _weights(manifest: Manifest, source: str | None, say: Report) -> bytes:
    shipped = _SHIPPED / manifest.id / bundles.MODEL
    if not shipped.is_file():
        return _plain_model(manifest, source, say)
    if source is None:
        return bundles.load(shipped.parent).model_path.read_bytes()
    fetched = fetch(source)
    digest = hashlib.sha256(fetched).hexdigest()
    if digest != manifest.model_sha256:
        raise SourceError(f"{source} has the SHA-256 {digest}, pinned is {manifest.model_sha256}")
    return fetched


def _plain_model(manifest: Manifest, source: str | None, say: Report) -> bytes:
    cached = cache_folder() / f"{manifest.model_sha256}.onnx"
    if source is None and cached.is_file() and bundles.sha256_file(cached) == manifest.model_sha256:
        return cached.read_bytes()
    origin = source or manifest.provenance.source
    say(f"{manifest.id}: fetching {origin}")
    model = _verify(manifest, fetch(origin), origin)
    _remember(cached, model)
    return model


def _verify(manifest: Manifest, fetched: bytes, origin: str) -> bytes:
    digest = hashlib.sha256(fetched).hexdigest()
    if digest == manifest.model_sha256:  # a mirror of the rewritten file
        return fetched
    pinned = manifest.provenance.source_sha256
    if digest != pinned:
        raise SourceError(f"{origin} has the SHA-256 {digest}, pinned is {pinned}")
    model = onnx_graph.plain(fetched, free_size=manifest.kind == "detector")
    rewritten = hashlib.sha256(model).hexdigest()
    if rewritten != manifest.model_sha256:
        raise SourceError(f"rewriting {origin} gave {rewritten}, expected {manifest.model_sha256}")
    return model


def _remember(path: Path, model: bytes) -> None:
    """Keep a copy; a cache that cannot be written is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(model)
        Path(file.name).replace(path)
    except OSError:
        return


def _from_pypi(spec: str) -> bytes:
    requirement, _, member = spec.partition("#")
    if not requirement or not member:
        raise SourceError(f"pypi:{spec} is incomplete; write pypi:PROJECT==VERSION#MEMBER")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(  # noqa: S603  the requirement comes from our own manifest or the operator's flag
                [*command, "--dest", folder, requirement], check=True, capture_output=True, timeout=_TIMEOUT_S
            )
            wheel = next(Path(folder).glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(member)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            raise SourceError(
                f"pip could not download {requirement}: {lines[-1] if lines else 'no reason given'}"
            ) from error
        except (OSError, subprocess.TimeoutExpired, StopIteration, zipfile.BadZipFile, KeyError) as error:
            raise SourceError(f"cannot take {member} out of {requirement}: {error!r}") from error


class _StayOnHttps(urllib.request.HTTPRedirectHandler):
    """Whoever is on the way could answer in place of a server that is not asked over https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request that follows a redirect, refused where it would leave https."""
        if not newurl.lower().startswith("https://"):
            raise urllib.error.HTTPError(req.full_url, code, f"redirects to {newurl}, not https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _from_url(url: str) -> bytes:
    try:
        with urllib.request.build_opener(_StayOnHttps).open(url, timeout=60) as response:
            data: bytes = response.read(MAX_DOWNLOAD + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):  # it is also the answer, and holds the connection
            error.close()
        reason = " ".join(str(error).split())
        raise SourceError(f"cannot fetch {url}: {reason}") from error
    if len(data) > MAX_DOWNLOAD:
        raise SourceError(f"{url} is larger than {MAX_DOWNLOAD} bytes")
    return data


def _folder(model_id: str) -> Path:
    return (_DEFAULTS if model_id in default_ids() else _SHIPPED) / model_id
