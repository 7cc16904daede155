"""Bundles on disk: add, resolve, promote, roll back. After a crash a change is whole, or did not happen.

<root>/bundles/<id>/manifest.json, model.onnx     never changed once there; card.md too, where there is one
<root>/bundles/<id>/signature.json                who vouches for both (models/signing.py)
<root>/state.json                                 {"embedder": ["newest champion", ..., "first"], "detector": [...],
                                                   "retired": ["was champion once, and was rolled back", ...]}
<root>/lock                                       held by the process that changes something
"""

import contextlib
import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from models import bundle as bundles
from models import files, signing
from models.bundle import Bundle, Manifest
from models.errors import FaceError, InvalidBundleError, ModelNotFoundError

State = dict[str, list[str]]
Standing = Literal["candidate", "champion", "retired"]
_RETIRED = "retired"
_MAX_MANIFEST_BYTES = 2**24
Lines = list[str]  # inside the class, `list` is its method


class ModelExistsError(FaceError):
    """A different bundle of that name is there already."""

    code = "already_exists"


class ChampionChangedError(FaceError):
    """Another model was promoted meanwhile."""

    code = "already_exists"


class Registry:
    """The folder that holds the bundles of one server."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bundles = root / "bundles"

    def list(self) -> list[Manifest]:
        """Manifests of all bundles that can be read, by name; `problems` tells of the others."""
        return [each for each in self._read_all() if isinstance(each, Manifest)]

    def problems(self) -> Lines:
        """A line on each bundle that cannot be read."""
        return [each for each in self._read_all() if isinstance(each, str)]

    def champion(self, kind: str) -> str | None:
        """Name of the promoted model of a kind (`detector` or `embedder`)."""
        history = self._state().get(kind, [])
        return history[0] if history else None

    def previous(self, kind: str) -> str | None:
        """Name of the model that `roll_back` would make champion."""
        history = self._state().get(kind, [])
        return history[1] if len(history) > 1 else None

    def manifest(self, model_id: str) -> Manifest:
        """The manifest of one bundle; the model itself is not looked at.

        Raises:
            ModelNotFoundError: no such model.
            InvalidBundleError: its manifest is damaged.
        """
        folder = self._folder(model_id)
        if not folder.is_dir():
            raise self._unknown(model_id)
        return _read(folder)

    def version_of(self, model_id: str) -> object:
        """Something that differs once the manifest of a model is replaced; None if there is no such model."""
        try:
            found = (self._folder(model_id) / bundles.MANIFEST).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def card(self, model_id: str) -> str | None:
        """The card of one bundle, Markdown, or None where there is none.

        Raises:
            ModelNotFoundError: no such model.
            InvalidBundleError: the card or the manifest is damaged.
        """
        return Bundle(self._folder(model_id), self.manifest(model_id)).card()

    def standing(self, manifest: Manifest) -> Standing:
        """champion: it is served; retired: it was once, and is no more; candidate: it never was."""
        state = self._state()
        history = state.get(manifest.kind, [])
        if history[:1] == [manifest.id]:
            return "champion"
        return "retired" if manifest.id in (*history, *state.get(_RETIRED, [])) else "candidate"

    def resolve(self, kind: str, model_id: str | None = None) -> Bundle:
        """The verified bundle of that name, or the champion of the kind if no name is given.

        Raises:
            ModelNotFoundError: no such model, or nothing was promoted yet.
            InvalidBundleError: it is there but damaged, of another kind, or its signature is not one to trust.
        """
        name = model_id or self.champion(kind)
        if name is None:
            raise ModelNotFoundError(f"there is no {kind} yet; run: facesphere models pull")
        folder = self._folder(name)
        if not folder.is_dir():
            raise self._unknown(name)
        self._check_signature(folder)
        bundle = bundles.load(folder)
        _check_name(folder, bundle.manifest)
        there = bundle.manifest.kind
        if there != kind:
            raise InvalidBundleError(f"model {name} is {_with_article(there)}, not {_with_article(kind)}")
        return bundle

    def resolve_any(self, model_id: str) -> Bundle:
        """The verified bundle of that name, of whatever kind.

        Raises:
            ModelNotFoundError: no such model.
            InvalidBundleError: it is damaged, or its signature is not one to trust.
        """
        folder = self._folder(model_id)
        if not folder.is_dir():
            raise self._unknown(model_id)
        return self.resolve(_read(folder).kind, model_id)

    def sign(self, model_id: str) -> None:
        """Sign a bundle that bears no signature yet: one that was added by an older version."""
        with self._lock():
            folder = self._folder(model_id)
            if not (folder / signing.SIGNATURE).exists():
                signature = signing.Signer(self._root).sign(*_signed_parts(folder))
                files.write_atomically(folder / signing.SIGNATURE, signing.dump(signature))

    def add(self, model: bytes, manifest: Manifest, card: str | None = None, signed: str | None = None) -> Bundle:
        """Store a bundle. Adding the same one again does nothing.

        Args:
            model: the ONNX file.
            manifest: sealed.
            card: Markdown.
            signed: signature.json of where it comes from; signed with the registry's own key if left out.

        Raises:
            ModelExistsError: another bundle has that name, or the same one has another card.
            InvalidBundleError: the manifest does not belong to the model, the card is too long, or the signature is
                not one to trust.
        """
        with self._lock():
            self._remove_leftovers()
            folder = self._folder(manifest.id)
            if folder.exists():
                return self._same_or_refuse(folder, manifest, card)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=self._bundles) as temporary:
                staged = Path(temporary) / manifest.id
                staged.mkdir()
                bundles.write(staged, model, manifest, card)
                signature = signed or signing.dump(signing.Signer(self._root).sign(*_signed_parts(staged)))
                (staged / signing.SIGNATURE).write_text(signature, encoding="utf-8")
                self._check_signature(staged)
                for path in (*staged.iterdir(), staged):
                    files.sync(path)
                staged.rename(folder)
                files.sync(self._bundles)
            return Bundle(folder, manifest)

    def replace_manifest(self, manifest: Manifest) -> None:
        """Give a stored model a new manifest: a new calibration, licence or metrics, of the same contract.

        Raises:
            ModelNotFoundError: no such model.
            InvalidBundleError: the manifest is of another contract.
        """
        with self._lock():
            folder = self._folder(manifest.id)
            if not folder.is_dir():
                raise self._unknown(manifest.id)
            there = _read(folder)
            if (there.contract_id, there.model_sha256) != (manifest.contract_id, manifest.model_sha256):
                raise InvalidBundleError(f"this manifest is of another contract than the stored {manifest.id}")
            self._replace(folder, bundles.manifest_json(manifest))

    def promote(self, model_id: str, replacing: str | None = None) -> Manifest:
        """Make a model the champion of its kind.

        Args:
            model_id: which.
            replacing: the champion that must be there still; whoever is, if left out.

        Raises:
            ModelNotFoundError: no such model.
            ChampionChangedError: another one is champion.
        """
        folder = self._folder(model_id)
        if not folder.is_dir():
            raise self._unknown(model_id)
        manifest = _read(folder)
        with self._lock():
            state = self._state()
            history = state.get(manifest.kind, [])
            if history[:1] != [model_id]:
                if replacing is not None and history[:1] != [replacing]:
                    there = history[0] if history else "nobody"
                    raise ChampionChangedError(f"{model_id} was to replace {replacing}, but the champion is {there}")
                self._write_state({**state, manifest.kind: [model_id, *history]})
        return manifest

    def roll_back(self, kind: str) -> str:
        """Make the champion before the present one champion again, and return its name.

        Raises:
            ModelNotFoundError: there was none.
        """
        with self._lock():
            state = self._state()
            history = state.get(kind, [])
            if len(history) < 2:
                raise ModelNotFoundError(f"there is no earlier {kind} to go back to")
            retired = sorted({*state.get(_RETIRED, []), history[0]})
            self._write_state({**state, kind: history[1:], _RETIRED: retired})
            return history[1]

    def signers(self, model_id: str) -> tuple[str, ...]:
        """Public keys of a bundle's signatures."""
        path = self._folder(model_id) / signing.SIGNATURE
        if not path.exists():
            return ()
        signed = signing.parse(model_id, files.read(path, signing.MAX_SIGNATURE_BYTES))
        return tuple(each.public_key for each in signed.signatures)

    def trusted(self, more: str | None = None) -> signing.Trust:
        """What comes from elsewhere must be signed by: whom this registry trusts, and one key more if it is given."""
        keys = signing.read_trust(self._root).keys
        return signing.Trust(require_signatures=True, keys=keys if more is None else (*keys, more))

    def trust(self, public_key: str) -> None:
        """Trust bundles that this key has signed."""
        with self._lock():
            trust = signing.read_trust(self._root)
            if public_key not in trust.keys:
                signing.write_trust(self._root, trust.model_copy(update={"keys": (*trust.keys, public_key)}))

    def _check_signature(self, folder: Path) -> None:
        path = folder / signing.SIGNATURE
        signed = files.read(path, signing.MAX_SIGNATURE_BYTES) if path.exists() else None
        signing.check(folder.name, *_signed_parts(folder), signed, signing.read_trust(self._root))

    def _replace(self, folder: Path, manifest: str) -> None:
        """A new manifest with a new signature. In between, both are vouched for: a crash leaves one that holds."""
        path, signer = folder / signing.SIGNATURE, signing.Signer(self._root)
        new = signer.sign(manifest.encode(), _signed_parts(folder)[1])
        if path.exists():
            self._check_signature(folder)
            there = signing.parse(folder.name, files.read(path, signing.MAX_SIGNATURE_BYTES)).signatures
            files.write_atomically(path, signing.dump(*there, new))
        files.write_atomically(folder / bundles.MANIFEST, manifest)
        files.write_atomically(path, signing.dump(new))

    def _read_all(self) -> Iterator[Manifest | str]:
        """The manifest of each bundle, or what is wrong with it."""
        folders = sorted(self._bundles.glob("[!.]*")) if self._bundles.is_dir() else []
        return (_read_or_problem(folder) for folder in folders if folder.is_dir())

    def _remove_leftovers(self) -> None:
        """Delete what an interrupted `add` left behind. Under the lock, so that no other one is at work."""
        for folder in self._bundles.glob(".new-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _unknown(self, model_id: str) -> ModelNotFoundError:
        there = ", ".join(each.id for each in self.list())
        return ModelNotFoundError(f"there is no model {model_id!r}; there is: {there or 'none'}", model=model_id)

    def _folder(self, model_id: str) -> Path:
        if not 0 < len(model_id) <= 64 or "/" in model_id or "\0" in model_id or model_id.startswith("."):
            raise ModelNotFoundError(f"{model_id[:64]!r} is not a model's name")
        return self._bundles / model_id

    def _same_or_refuse(self, folder: Path, manifest: Manifest, card: str | None) -> Bundle:
        there = bundles.load(folder)
        if there.manifest != manifest:
            raise ModelExistsError(f"another model named {manifest.id} is there already", model=manifest.id)
        if card is not None and there.card() != card:
            raise ModelExistsError(f"the model {manifest.id} is there already with another card", model=manifest.id)
        return there

    def _state(self) -> State:
        path = self._root / "state.json"
        try:
            state = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InvalidBundleError(f"{path} cannot be read: {error}") from error
        if not isinstance(state, dict) or not all(_is_history(value) for value in state.values()):
            raise InvalidBundleError(f"{path} is not a list of model names for each kind")
        return state

    def _write_state(self, state: State) -> None:
        files.write_atomically(self._root / "state.json", json.dumps(state, indent=2) + "\n")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self._bundles.mkdir(parents=True, exist_ok=True)
            file = (self._root / "lock").open("w")
        except OSError as error:
            raise InvalidBundleError(f"cannot keep models in {self._root}: {error.strerror}") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read(folder: Path) -> Manifest:
    manifest = bundles.read_manifest(folder / bundles.MANIFEST)
    _check_name(folder, manifest)
    return manifest


def _read_or_problem(folder: Path) -> Manifest | str:
    try:
        return _read(folder)
    except InvalidBundleError as error:
        return error.message


def _check_name(folder: Path, manifest: Manifest) -> None:
    """A copied or renamed folder would answer to a name that its manifest does not have."""
    if manifest.id != folder.name:
        raise InvalidBundleError(f"{folder} holds a model of another name, {manifest.id}")


def _signed_parts(folder: Path) -> tuple[bytes, bytes | None]:
    """What a signature covers: manifest and card, to the byte."""
    card = folder / bundles.CARD
    manifest = files.read(folder / bundles.MANIFEST, _MAX_MANIFEST_BYTES)
    return manifest, files.read(card, bundles.MAX_CARD_BYTES + 1) if card.exists() else None


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _is_history(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
