"""TLS on both ports, with certificates made here; and what is no certificate."""

import datetime
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from facesphere_client import NEVER, Client, ConnectionFailedError, Tls
from live_server import LiveServer, live_server

from service.errors import InvalidRequestError
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc
from service.security.tls import TlsFiles


@dataclass(frozen=True)
class Certificates:
    """Files of a small authority: its own certificate, and certificate and key of `localhost` and of a caller."""

    ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]
    stranger: tuple[Path, Path]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    ca_key, other_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("authority", ca_key, ca_key, "authority", is_ca=True)
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    pairs = []
    for name, signer, issuer in (
        ("localhost", ca_key, "authority"),
        ("caller", ca_key, "authority"),
        ("stranger", other_key, "other"),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
        cert_file.write_bytes(_certificate(name, key, signer, issuer).public_bytes(Encoding.PEM))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        pairs.append((cert_file, key_file))
    return Certificates(folder / "ca.pem", *pairs)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, issuer: str, is_ca: bool = False
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(signer, hashes.SHA256())


@pytest.fixture(scope="module")
def server(
    certificates: Certificates, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that takes callers of the authority only."""
    cert, key = certificates.server
    with live_server(
        tmp_path_factory.mktemp("served") / "data",
        models_dir=str(models_dir),
        tls_cert=str(cert),
        tls_key=str(key),
        tls_client_ca=str(certificates.ca),
    ) as running:
        yield running


def _https(server: LiveServer, certificates: Certificates, pair: tuple[Path, Path] | None) -> httpx.Response:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    if pair:
        context.load_cert_chain(*pair)
    with httpx.Client(verify=context) as client:
        return client.get(server.http.replace("127.0.0.1", "localhost") + "/models")


def _grpc(server: LiveServer, certificates: Certificates, pair: tuple[Path, Path] | None) -> pb.ListCollectionsResponse:
    key, cert = (pair[1].read_bytes(), pair[0].read_bytes()) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(certificates.ca.read_bytes(), key, cert)
    with grpc.secure_channel(server.grpc.replace("127.0.0.1", "localhost"), credentials) as channel:
        return pb_grpc.GalleryStub(channel).ListCollections(pb.ListCollectionsRequest(), timeout=10)


def test_both_ports_speak_tls_with_callers_of_the_authority(server: LiveServer, certificates: Certificates) -> None:
    assert server.http.startswith("https://")
    assert _https(server, certificates, certificates.client).status_code == 200
    assert list(_grpc(server, certificates, certificates.client).collections) == []


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_who_has_no_certificate_of_the_authority_is_not_heard(
    server: LiveServer, certificates: Certificates, who: str
) -> None:
    pair = certificates.stranger if who == "stranger" else None

    with pytest.raises(httpx.TransportError):
        _https(server, certificates, pair)
    with pytest.raises(grpc.RpcError) as refused:
        _grpc(server, certificates, pair)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def test_the_client_brings_its_certificate_over_both_protocols(
    server: LiveServer, certificates: Certificates, face_photo: bytes
) -> None:
    tls = Tls(certificates.ca, *certificates.client)
    for url in (server.http, f"grpcs://{server.grpc}"):
        at = url.replace("127.0.0.1", "localhost")
        with Client(at, tls=tls, retry=NEVER) as client:
            assert client.detect(face_photo).faces
        for wrong in (Tls(certificates.ca), Tls()):
            with Client(at, tls=wrong, retry=NEVER) as client, pytest.raises(ConnectionFailedError):
                client.detect(face_photo)


def test_without_tls_nobody_is_understood(server: LiveServer) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(server.http.replace("https://", "http://") + "/models")


def test_what_is_no_pair_of_certificate_and_key_is_said_in_one_line(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    (cert, key), missing = certificates.server, tmp_path / "missing.pem"
    for files in (
        TlsFiles(cert, certificates.client[1]),
        TlsFiles(missing, key),
        TlsFiles(cert, missing),
        TlsFiles(tmp_path / "empty.pem", key),
        TlsFiles(cert, key, tmp_path / "empty.pem"),
        TlsFiles(cert, key, missing),
    ):
        with pytest.raises(InvalidRequestError, match="for TLS") as refused:
            files.check()
        assert "\n" not in refused.value.message
    TlsFiles(cert, key, certificates.ca).check()
