"""The default models: fetched, checked against their pinned digest, rewritten, checked again."""

import datetime
import hashlib
import ipaddress
import ssl
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from photos import ROOT

from models import bundle as bundles
from models import onnx_graph, zoo
from models.errors import ModelNotFoundError, SourceError
from models.registry import Registry


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry on a machine that has fetched nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Registry(tmp_path / "models")


@pytest.fixture
def weights(registry: Registry) -> Path:
    """The file of the default detector, the smaller of the two."""
    return registry.resolve("detector", zoo.DEFAULT_DETECTOR).model_path


@pytest.mark.parametrize("model_id", zoo.default_ids())
def test_a_committed_manifest_is_stored_as_it_is(registry: Registry, model_id: str) -> None:
    committed = ROOT / "models" / "defaults" / model_id / "manifest.json"
    manifest = zoo.known_manifest(model_id)
    bundle = registry.resolve(manifest.kind, model_id)
    assert bundle.manifest == manifest
    assert (bundle.folder / "manifest.json").read_text("utf-8") == bundles.manifest_json(manifest)
    assert bundles.read_manifest(committed) == manifest
    assert manifest.id == model_id


@pytest.mark.parametrize("model_id", zoo.default_ids())
def test_a_default_model_states_its_licence_and_where_it_is_from(model_id: str) -> None:
    manifest = zoo.known_manifest(model_id)
    assert manifest.licence.spdx
    assert manifest.licence.commercial_use
    assert manifest.provenance.origin
    assert manifest.provenance.source.startswith(("pypi:", "https://"))
    assert manifest.provenance.source_sha256


def test_there_is_one_default_for_each_kind() -> None:
    assert zoo.known_manifest(zoo.DEFAULT_DETECTOR).kind == "detector"
    assert zoo.known_manifest(zoo.DEFAULT_EMBEDDER).kind == "embedder"


def test_a_pulled_model_is_promoted_where_its_kind_has_no_champion(empty: Registry, weights: Path) -> None:
    said: list[str] = []
    manifest = zoo.pull(empty, zoo.DEFAULT_DETECTOR, str(weights), said.append)
    assert empty.resolve("detector").manifest == manifest
    assert empty.resolve("detector").model_path.read_bytes() == weights.read_bytes()
    assert manifest.contract_id in said[-1]


def test_pulling_again_fetches_nothing(empty: Registry, weights: Path) -> None:
    zoo.pull(empty, zoo.DEFAULT_DETECTOR, str(weights))
    zoo.pull(empty, zoo.DEFAULT_DETECTOR, "/nowhere/at/all")


def test_a_champion_is_not_replaced_by_pulling(empty: Registry, weights: Path) -> None:
    mine = bundles.seal(zoo.known_manifest(zoo.DEFAULT_DETECTOR).model_copy(update={"id": "mine"}))
    empty.add(weights.read_bytes(), mine)
    empty.promote("mine")
    zoo.pull(empty, zoo.DEFAULT_DETECTOR, str(weights))
    assert empty.champion("detector") == "mine"


def test_a_second_registry_takes_the_model_from_the_cache(empty: Registry, weights: Path, tmp_path: Path) -> None:
    zoo.pull(empty, zoo.DEFAULT_DETECTOR, str(weights))
    said: list[str] = []
    zoo.pull(Registry(tmp_path / "second"), zoo.DEFAULT_DETECTOR, report=said.append)
    assert not any("fetching" in line for line in said)


def test_a_damaged_file_in_the_cache_is_replaced(empty: Registry, weights: Path, tmp_path: Path) -> None:
    zoo.pull(empty, zoo.DEFAULT_DETECTOR, str(weights))
    cached = next((tmp_path / "cache").rglob("*.onnx"))
    cached.write_bytes(b"damaged")
    second = Registry(tmp_path / "second")
    zoo.pull(second, zoo.DEFAULT_DETECTOR, str(weights))
    assert second.resolve("detector").model_path.read_bytes() == weights.read_bytes()
    assert cached.read_bytes() == weights.read_bytes()


@pytest.mark.usefixtures("index")
def test_a_damaged_file_in_the_cache_is_fetched_anew(empty: Registry, tmp_path: Path) -> None:
    # The index of this test has no default model, so the attempt to fetch it shows as an error of the source.
    manifest = zoo.known_manifest(zoo.DEFAULT_DETECTOR)
    cached = zoo.cache_folder() / f"{manifest.model_sha256}.onnx"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"damaged")
    with pytest.raises(SourceError, match="pip could not download"):
        zoo.pull(empty, manifest.id)


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    empty: Registry, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    zoo.pull(empty, zoo.DEFAULT_DETECTOR, str(weights))
    assert empty.champion("detector") == zoo.DEFAULT_DETECTOR


def test_a_source_with_another_file_is_refused_and_nothing_is_stored(empty: Registry, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"another file")
    digest = hashlib.sha256(b"another file").hexdigest()
    with pytest.raises(SourceError, match=digest) as caught:
        zoo.pull(empty, zoo.DEFAULT_DETECTOR, str(wrong))
    assert str(zoo.known_manifest(zoo.DEFAULT_DETECTOR).provenance.source_sha256) in caught.value.message
    assert empty.list() == []
    assert empty.champion("detector") is None


def test_one_changed_bit_is_another_file(empty: Registry, weights: Path, tmp_path: Path) -> None:
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.onnx").write_bytes(data)
    with pytest.raises(SourceError, match="pinned"):
        zoo.pull(empty, zoo.DEFAULT_DETECTOR, str(tmp_path / "changed.onnx"))


@pytest.mark.parametrize("model_id", ["", "resnet", "../sface-2021dec", "sface-2021dec/"])
def test_a_name_that_is_no_default_is_refused_and_the_defaults_are_named(empty: Registry, model_id: str) -> None:
    with pytest.raises(ModelNotFoundError, match=zoo.DEFAULT_EMBEDDER):
        zoo.pull(empty, model_id)


def test_a_local_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file with spaces and ü.onnx"
    path.write_bytes(b"bytes")
    assert zoo.fetch(str(path)) == b"bytes"


@pytest.mark.parametrize("source", ["/nowhere/model.onnx", "", "/"])
def test_a_path_that_cannot_be_read_is_told_in_one_line(source: str) -> None:
    with pytest.raises(SourceError, match="cannot read") as caught:
        zoo.fetch(source)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "source", ["http://example.org/model.onnx", "file:///etc/passwd", "ftp://example.org/x", "HTTPS://example.org/x"]
)
def test_other_schemes_are_refused_unread(source: str) -> None:
    with pytest.raises(SourceError, match="only pypi:, https:// and local files"):
        zoo.fetch(source)


@pytest.mark.parametrize("source", ["https://", "https://host with space/x", "https://[::1/x", "https://127.0.0.1:1/x"])
def test_an_address_that_cannot_be_reached_is_told_in_one_line(source: str) -> None:
    with pytest.raises(SourceError, match="cannot fetch") as caught:
        zoo.fetch(source)
    assert "\n" not in caught.value.message


_REDIRECTS = {
    "/near": "/model",
    "/far": "https://127.0.0.1:{port}/model",
    "/plain": "http://127.0.0.1:{port}/model",
    "/ftp": "ftp://127.0.0.1:{port}/model",
}


class _Files(BaseHTTPRequestHandler):
    """Serves /model, an answer cut off in its middle, and redirects to itself, to /model and away from https."""

    def do_GET(self) -> None:
        if self.path == "/model":
            self.send_response(200)
            self.send_header("content-length", "5")
            self.end_headers()
            self.wfile.write(b"bytes")
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"10\r\nhalf")
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("location", "/loop")
            self.end_headers()
        elif self.path in _REDIRECTS:
            self.send_response(302)
            self.send_header("location", _REDIRECTS[self.path].format(port=self.server.server_port))
            self.end_headers()
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def _certificate(folder: Path) -> Path:
    """A certificate of its own for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "server.pem"
    path.write_bytes(key.private_bytes(encoding, form, none) + certificate.public_bytes(encoding))
    return path


@pytest.fixture
def https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that this process trusts."""
    pem = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with HTTPServer(("127.0.0.1", 0), _Files) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_over_https(https: str) -> None:
    assert zoo.fetch(f"{https}/model") == b"bytes"


@pytest.mark.parametrize("path", ["/missing", "/cut", "/loop"])
def test_a_server_that_does_not_deliver_is_told_in_one_line(https: str, path: str) -> None:
    with pytest.raises(SourceError, match="cannot fetch") as caught:
        zoo.fetch(https + path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("path", ["/near", "/far"])
def test_a_redirect_to_https_is_followed(https: str, path: str) -> None:
    assert zoo.fetch(https + path) == b"bytes"


@pytest.mark.parametrize("path", ["/plain", "/ftp"])
def test_a_redirect_away_from_https_is_refused_in_one_line(https: str, path: str) -> None:
    with pytest.raises(SourceError, match="not https") as caught:
        zoo.fetch(https + path)
    assert "\n" not in caught.value.message


def test_a_server_whose_certificate_is_unknown_is_not_trusted(https: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
        zoo.fetch(f"{https}/model")


def test_a_file_over_the_limit_is_not_read_to_its_end(https: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "MAX_DOWNLOAD", 4)
    with pytest.raises(SourceError, match="larger than 4 bytes"):
        zoo.fetch(f"{https}/model")


def _wheel(folder: Path) -> None:
    with zipfile.ZipFile(folder / "weights_of_ours-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("weights_of_ours/model.onnx", b"bytes")
        info = "weights_of_ours-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: weights-of-ours\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one wheel as pip's only source, as the user's own settings would name it."""
    _wheel(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")


@pytest.mark.usefixtures("index")
def test_a_member_of_a_wheel_is_fetched_with_the_users_pip_settings() -> None:
    assert zoo.fetch("pypi:weights-of-ours==1.0#weights_of_ours/model.onnx") == b"bytes"


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("pypi:weights-of-ours==1.0#weights_of_ours/other.onnx", "cannot take weights_of_ours/other.onnx"),
        ("pypi:weights-of-ours==1.0", "is incomplete"),
        ("pypi:weights-of-ours==2.0#x", "pip could not download weights-of-ours==2.0"),
        ("pypi:#x", "is incomplete"),
    ],
)
def test_a_wheel_that_does_not_carry_the_file_is_told_in_one_line(source: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        zoo.fetch(source)
    assert "\n" not in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize("model_id", zoo.default_ids())
def test_the_pinned_source_rewritten_has_the_pinned_digest(model_id: str) -> None:
    manifest = zoo.known_manifest(model_id)
    try:
        original = zoo.fetch(manifest.provenance.source)
    except SourceError as error:
        pytest.skip(f"the original cannot be fetched: {error.message}")
    assert hashlib.sha256(original).hexdigest() == manifest.provenance.source_sha256
    rewritten = onnx_graph.plain(original, free_size=manifest.kind == "detector")
    assert hashlib.sha256(rewritten).hexdigest() == manifest.model_sha256


@pytest.mark.slow
def test_a_pull_from_the_pinned_source_gives_the_model_that_is_pinned(empty: Registry) -> None:
    said: list[str] = []
    try:
        zoo.pull(empty, zoo.DEFAULT_DETECTOR, report=said.append)
    except SourceError as error:
        pytest.skip(f"the source cannot be reached: {error.message}")
    assert "fetching pypi:" in said[0]
    assert empty.resolve("detector").manifest == zoo.known_manifest(zoo.DEFAULT_DETECTOR)
