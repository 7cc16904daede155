"""The models of the registry, as whoever asks is told of them: which are served, and all that is known of one."""

from dataclasses import dataclass

from models.bundle import Manifest
from models.registry import Registry, Standing
from service.served import Served
from service.shadow import Shadow


@dataclass(frozen=True, slots=True)
class Entry:
    """A model; `loaded` while the server can compute with it, `in_shadow` while it is compared and answers nothing."""

    manifest: Manifest
    standing: Standing
    loaded: bool
    in_shadow: bool

    @property
    def champion(self) -> bool:
        """Whether it is the promoted one of its kind."""
        return self.standing == "champion"


@dataclass(frozen=True, slots=True)
class Detail:
    """A model with its card (Markdown) and the public keys that signed it."""

    entry: Entry
    card: str | None
    signers: tuple[str, ...]


class Catalogue:
    """Reads the registry; the networks themselves are not looked at."""

    def __init__(self, registry: Registry, served: Served, shadow: Shadow, detector_id: str) -> None:
        self._registry, self._served, self._shadow, self._detector_id = registry, served, shadow, detector_id

    def all(self) -> list[Entry]:
        """Every model that can be read, by name."""
        return [self._entry(manifest) for manifest in self._registry.list()]

    def one(self, model_id: str) -> Detail:
        """All that is known of a model.

        Raises:
            ModelNotFoundError: there is none of that name.
            InvalidBundleError: its manifest, card or signature is damaged.
        """
        manifest = self._registry.manifest(model_id)
        return Detail(self._entry(manifest), self._registry.card(model_id), self._registry.signers(model_id))

    def _entry(self, manifest: Manifest) -> Entry:
        loaded = manifest.id in (self._detector_id, *self._served.ids)
        candidate = self._shadow.summary.model_id if self._shadow.summary else None
        return Entry(manifest, self._registry.standing(manifest), loaded, manifest.id == candidate)
