"""Settings from the environment and from flags, and what is refused in one line."""

import os
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from service.errors import InvalidRequestError
from service.settings import PREFIX, Settings, read_settings

KEY = "correct-horse-battery"
DATABASE = "postgresql://facesphere:secret@db1,db2/faces?sslmode=verify-full"
MASTER = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

# Every field: a value that is not its default, as it stands in the environment and as it is read.
VALUES: dict[str, tuple[str, Any]] = {
    "host": ("::1", "::1"),
    "port": ("8123", 8123),
    "grpc_port": ("0", 0),
    "data_dir": ("/var/lib/facesphere", Path("/var/lib/facesphere")),
    "keys_dir": ("/srv/keys", Path("/srv/keys")),
    "master_key": (MASTER, MASTER),
    "master_key_file": ("/run/secrets/master", Path("/run/secrets/master")),
    "master_key_command": ("vault read key", "vault read key"),
    "gallery_url": (DATABASE, DATABASE),
    "gallery_replica_url": (DATABASE, DATABASE),
    "models_dir": ("/opt/models", Path("/opt/models")),
    "model": ("my-model", "my-model"),
    "detector": ("my-detector", "my-detector"),
    "auto_pull": ("false", False),
    "device": ("cpu", "cpu"),
    "detector_device": ("cuda", "cuda"),
    "workers": ("1", 1),
    "threads": ("3", 3),
    "api_key": (KEY, KEY),
    "tls_cert": ("/tls/cert.pem", Path("/tls/cert.pem")),
    "tls_key": ("/tls/key.pem", Path("/tls/key.pem")),
    "tls_client_ca": ("/tls/ca.pem", Path("/tls/ca.pem")),
    "target_fmr": ("1e-5", 1e-5),
    "target_fpir": ("0.02", 0.02),
    "search_recall": ("0.95", 0.95),
    "max_image_bytes": ("2048", 2048),
    "max_image_pixels": ("1000000", 1_000_000),
    "max_body_bytes": ("8192", 8192),
    "max_pending_bytes": ("2097152", 2 * 2**20),
    "max_batch": ("32", 32),
    "max_queue": ("1", 1),
    "max_queue_delay_s": ("0.25", 0.25),
    "cuda_graphs": ("true", True),
    "request_timeout_s": ("0.5", 0.5),
    "shutdown_grace_s": ("1.5", 1.5),
    "log_level": ("debug", "debug"),
    "tracing": ("true", True),
    "log_format": ("json", "json"),
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def _value(settings: Settings, name: str) -> Any:
    value = getattr(settings, name)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _refusal(**flags: Any) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        read_settings(**flags)
    message = refused.value.message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_faces_are_looked_for_on_a_gpu_only_beside_an_embedder_there(device: str) -> None:
    assert f"not on {device}" in _refusal(device=device, detector_device="cuda")


def test_the_table_of_this_file_has_every_field() -> None:
    assert set(VALUES) == set(Settings.model_fields)


@pytest.mark.parametrize("name", VALUES)
def test_each_field_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _, value = VALUES[name]
    if name != "workers":  # the one that has a single allowed value
        assert _value(read_settings(), name) != value

    groups = {"tls": {"tls_cert", "tls_key"}, "gallery": {"gallery_url"}}  # one without the others is nothing
    for each in {name} | groups.get(name.partition("_")[0], set()):
        monkeypatch.setenv(PREFIX + each.upper(), VALUES[each][0])

    assert _value(read_settings(), name) == value


@pytest.mark.parametrize("name", VALUES)
def test_each_field_has_a_description(name: str) -> None:
    assert Settings.model_fields[name].description


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPHERE_PORT", "8123")
    monkeypatch.setenv("FACESPHERE_GRPC_PORT", "9123")

    settings = read_settings(port=7000, grpc_port=None)

    assert (settings.port, settings.grpc_port) == (7000, 9123)


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPHERE_PORT", "")
    monkeypatch.setenv("FACESPHERE_API_KEY", "")

    assert read_settings().port == 8000
    assert read_settings().api_key is None


def test_a_variable_of_an_unknown_name_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPHERE_PROT", "8123")

    message = _refusal()

    assert message.startswith("unknown setting FACESPHERE_PROT")
    assert all(PREFIX + name.upper() in message for name in VALUES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("grpc_port", "70000"),
        ("auto_pull", "perhaps"),
        ("device", "abacus"),
        ("workers", "2"),
        ("threads", "-1"),
        ("threads", "1025"),
        ("target_fmr", "0"),
        ("target_fmr", "1"),
        ("target_fmr", "nan"),
        ("target_fpir", "-0.1"),
        ("search_recall", "1.01"),
        ("max_image_bytes", "10"),
        ("max_image_pixels", "10"),
        ("max_body_bytes", "10"),
        ("max_pending_bytes", "10"),
        ("max_batch", "0"),
        ("max_batch", "257"),
        ("max_queue", "0"),
        ("max_queue_delay_s", "-1"),
        ("request_timeout_s", "0"),
        ("request_timeout_s", "inf"),
        ("shutdown_grace_s", "nan"),
        ("shutdown_grace_s", "inf"),
        ("log_level", "loud"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line_that_names_the_field(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), text)

    assert _refusal().startswith(f"{name}: ")


def test_settings_cannot_be_changed_and_unknown_flags_are_refused() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().port = 1  # type: ignore[misc]
    assert "prot" in _refusal(prot=1)


@pytest.mark.parametrize("key", ["fifteen-letters", "no key: it has spaces in it", "sixteen-ümlauts-x", KEY + "\n"])
def test_a_key_that_is_short_or_no_header_can_carry_is_refused_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("FACESPHERE_API_KEY", key)

    with pytest.raises(InvalidRequestError, match=r"api_key: must be at least 16 ASCII characters") as refused:
        read_settings()

    everything = "".join(traceback.format_exception(refused.value))
    assert key.strip() not in everything
    assert key.strip() not in repr(refused.value)


def test_the_key_is_not_shown_where_settings_or_another_error_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPHERE_API_KEY", KEY)
    settings = read_settings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == KEY
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert KEY not in text

    monkeypatch.setenv("FACESPHERE_PORT", "99999")
    with pytest.raises(InvalidRequestError) as refused:
        read_settings()
    assert KEY not in "".join(traceback.format_exception(refused.value))


def test_models_lie_in_the_data_folder_unless_told_otherwise() -> None:
    assert read_settings(data_dir=Path("/srv/d")).registry_dir == Path("/srv/d/models")
    assert read_settings(data_dir=Path("/srv/d"), models_dir=Path("/m")).registry_dir == Path("/m")


def test_no_threads_stated_means_one_for_each_core_of_this_process() -> None:
    assert read_settings().cores == len(os.sched_getaffinity(0))
    assert read_settings(threads=5).cores == 5


def test_the_keys_lie_beside_the_data_unless_they_are_put_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings(data_dir=Path("/srv/d")).key_folder == Path("/srv/d.keys")
    assert read_settings(data_dir=Path("data")).key_folder == tmp_path / "data.keys"
    assert read_settings(data_dir=Path()).key_folder == tmp_path.with_name(tmp_path.name + ".keys")
    assert read_settings(keys_dir=Path("/k")).key_folder == Path("/k")


def test_two_master_keys_are_one_too_many() -> None:
    assert "give one of" in _refusal(master_key=MASTER, master_key_command="cat key")


@pytest.mark.parametrize("given", [("tls_cert",), ("tls_key",), ("tls_client_ca",), ("tls_key", "tls_client_ca")])
def test_half_a_tls_is_none(given: tuple[str, ...]) -> None:
    assert "TLS needs tls_cert and tls_key" in _refusal(**{name: Path("x.pem") for name in given})
