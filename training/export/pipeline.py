"""From a trained network to bundles: export, compare with torch, measure, write; then the variants that pass."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from models.alignment import TEMPLATE_NAMES, Template
from models.bundle import Bundle, InputSpec, Licence, Manifest, Provenance
from models.preprocess import Vectors
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder
from training.data.aligned import AlignedSet
from training.export import gate, parity, variants
from training.export.bundle import make_manifest, write_bundle
from training.export.checkpoint import Trained
from training.export.errors import ExportError, VariantRefusedError
from training.export.gate import GATES, Gate
from training.export.material import Material, Resized, material
from training.export.metric import fit_metric, unit_vectors, with_metric
from training.export.onnx import OPSET, export_onnx
from training.export.variants import HOW, Kind

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to make: the bundle's name and terms, and which variants beside it under which gates."""

    id: str
    licence: Licence
    template: str | None = None
    mirror: bool = False
    metric: bool = False
    kinds: tuple[Kind, ...] = ()
    gates: Mapping[str, Gate] = field(default_factory=lambda: GATES)


def export_model(trained: Trained, request: Request, out: Path, data: AlignedSet | None, say: Say) -> list[Bundle]:
    """Write the bundle OUT/ID, and OUT/ID-fp16 and OUT/ID-int8 as asked.

    Args:
        trained: the network.
        request: what to make of it.
        out: folder of the bundles; none of those to be made may be there yet.
        data: labelled crops to compare on, to choose 8-bit ranges from and to measure on; needed for variants.
        say: is told what was found, a line each.

    Returns:
        What was written, the float bundle first.

    Raises:
        ExportError: the network cannot be exported or served, or torch and the exported file disagree.
        VariantRefusedError: a variant lost too much and was not kept; everything else was written.
        DataError: the crops are too few.
    """
    names = [request.id, *(f"{request.id}-{kind}" for kind in request.kinds)]
    there = [out / name for name in names if (out / name).exists()]
    if there:
        raise ExportError(f"{there[0]} is there already; a bundle is never changed, choose another name")
    if request.kinds and data is None:
        raise ExportError("a variant is kept for what it loses: labelled crops to measure that on are needed")
    if request.metric and data is None:
        raise ExportError("a metric is learned from labelled crops: say which")
    return _Export(trained, request, out, data, say).run()


class _Export:
    def __init__(self, trained: Trained, request: Request, out: Path, data: AlignedSet | None, say: Say) -> None:
        self.trained, self.request, self.out, self.say = trained, request, out, say
        self.spec = input_spec(trained)
        self.template = request.template or trained.template or template_of(self.spec)
        self.material = None if data is None else material(data, self.spec, self.template, trained.held_out)
        self.module = self._with_metric(trained.module) if request.metric else trained.module
        self.model = export_onnx(self.module, (self.spec.height, self.spec.width))

    def run(self) -> list[Bundle]:
        bundle, float32 = self._float()
        written, refused = [bundle], []
        for kind in self.request.kinds:
            try:
                written.append(self._variant(kind, float32))
            except VariantRefusedError as error:
                refused.append(error.message)
        if refused:
            raise VariantRefusedError("; ".join(refused))
        return written

    def _with_metric(self, module: nn.Module) -> nn.Module:
        """The network with a metric behind it, learned from the people who are not measured on."""
        if self.material is None:  # export_model has seen to it
            raise ExportError("there are no crops to learn a metric from")
        others = self.material.others
        crops = Resized(others.crops, (self.spec.height, self.spec.width))
        vectors = unit_vectors(module, self.spec, crops, self.request.mirror)
        self.say(f"{self.request.id}: a metric learned from {len(others)} photos of {len(others.people)} people")
        return with_metric(module, *fit_metric(vectors, others.labels))

    def _float(self) -> tuple[Bundle, Vectors | None]:
        """The bundle, and its vectors of the measured crops."""
        manifest = self._manifest(self.model, self.request.id, "torch to ONNX, opset " + str(OPSET))
        embedder = embedder_of(self.model, manifest)
        crops = parity.noise_crops(self.spec) if self.material is None else list(self.material.crops[:7])
        lowest = parity.check_vectors(self.module, embedder, crops)
        self.say(f"{manifest.id}: lowest cosine to torch {lowest:.7f}, in batches of {_listed(parity.BATCHES)}")
        metrics, vectors = {"parity_cosine": min(lowest, 1.0), "bytes": float(len(self.model))}, None
        if self.material is not None:
            vectors, rates = self._measure(embedder, self.material)
            metrics |= rates
        final = self._manifest(self.model, manifest.id, manifest.provenance.transform, metrics)
        return self._write(self.model, final), vectors

    def _measure(self, embedder: Embedder, there: Material) -> tuple[Vectors, dict[str, float]]:
        crops = list(there.crops)
        vectors = parity.embed_all(embedder, crops)
        ours = parity.torch_vectors(self.module, embedder.manifest, crops)
        for rate, (a, b) in parity.check_rates(ours, vectors, there.labels).items():
            self.say(f"{self.request.id}: at FMR {rate:g} torch accepts {a} genuine pairs, the exported file {b}")
        return vectors, gate.rates_of(vectors, there.labels)

    def _variant(self, kind: Kind, float32: Vectors | None) -> Bundle:
        if self.material is None or float32 is None:  # export_model has seen to it
            raise ExportError("there are no crops to measure a variant on")
        name = f"{self.request.id}-{kind}"
        model = (
            variants.to_fp16(self.model)
            if kind == "fp16"
            else variants.to_int8(self.model, self.material.calibration, self.spec)
        )
        embedder = embedder_of(model, self._manifest(model, name, HOW[kind]))
        vectors = self._variant_vectors(embedder, name)
        metrics = gate.compare(vectors, float32, self.material.labels)
        gate.check(metrics, self.request.gates[kind], name)
        metrics |= {"bytes": float(len(model)), "bytes_float": float(len(self.model))}
        self.say(f"{name}: mean cosine {metrics['mean_cosine']:.4f}, accuracy {metrics['accuracy']:.4f}, kept")
        return self._write(model, self._manifest(model, name, HOW[kind], metrics))

    def _variant_vectors(self, embedder: Embedder, name: str) -> Vectors:
        try:
            return parity.embed_all(embedder, list(self.material.crops) if self.material else [])
        except ValueError as error:
            raise VariantRefusedError(f"{name} was not kept: {error}") from error

    def _manifest(self, model: bytes, name: str, how: str, metrics: Mapping[str, float] | None = None) -> Manifest:
        config = self.trained.config
        return make_manifest(
            model,
            id=name,
            architecture=_words(config.backbone.name, config.backbone.params)
            + (", metric learned on top" if self.request.metric else ""),
            input=self.spec,
            template=self.template,
            dimension=config.dimension,
            mirror=self.request.mirror,
            licence=self.request.licence,
            provenance=Provenance(
                origin=f"trained with facesphere-train, run {config.name}, step {self.trained.step}",
                source=self.trained.source,
                source_sha256=self.trained.sha256,
                transform=how,
            ),
            metrics=metrics or {},
        )

    def _write(self, model: bytes, manifest: Manifest) -> Bundle:
        bundle = write_bundle(self.out / manifest.id, model, manifest, self._facts())
        self.say(f"{bundle.folder}: {len(model):,} bytes, contract {manifest.contract_id}")
        return bundle

    def _facts(self) -> dict[str, str]:
        config = self.trained.config
        return {
            "data": config.data.train.name,
            "loss": _words(config.loss.name, config.loss.params) if config.loss else "",
            "teacher": config.distil.bundle.name if config.distil else "",
            "begun with": config.start.bundle.name if config.start else "",
            "steps": str(self.trained.step),
            "seed": str(config.seed),
            "metric": f"learned from {len(self.material.others)} photos of {len(self.material.others.people)} people"
            if self.request.metric and self.material
            else "",
            "measured on": self.material.description if self.material else "nothing",
        }


def embedder_of(model: bytes, manifest: Manifest) -> Embedder:
    """The service's own embedder of an ONNX file that is not a bundle yet, on the CPU.

    Raises:
        InvalidBundleError: it cannot be served.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return Embedder(Session(path, SessionOptions("cpu")), manifest)


def input_spec(trained: Trained) -> InputSpec:
    """What the service must feed the network.

    Raises:
        ExportError: a network of grey images, or of a size that no bundle has.
    """
    given = trained.config.input
    if given.channels == "gray":
        raise ExportError("a bundle takes colour crops; this network was trained on grey images")
    try:
        return InputSpec(
            width=given.width,
            height=given.height,
            channels=given.channels,
            mean=(given.mean,) * 3,
            std=(given.std,) * 3,
        )
    except ValueError as error:
        raise ExportError(f"no bundle takes input of {given.width} x {given.height}") from error


def template_of(spec: InputSpec) -> str:
    """The one template whose crops have this shape.

    Raises:
        ExportError: there is none.
    """
    for name in TEMPLATE_NAMES:
        try:
            return Template(name, spec.width, spec.height).name
        except ValueError:
            continue
    raise ExportError(f"no alignment template has crops of {spec.width} x {spec.height}")


def _words(name: str, params: Mapping[str, object]) -> str:
    return " ".join((name, *(f"{key}={value}" for key, value in sorted(params.items()))))


def _listed(numbers: Sequence[int]) -> str:
    *first, last = (str(number) for number in numbers)
    return f"{', '.join(first)} and {last}"
