"""docker-compose.yml: what starts, with what rights, and that Compose will read it."""

import copy
import re
from typing import Any

import pytest
from compose import check, compose, started
from photos import ROOT

DOCUMENT = compose()
OURS = ("facesphere", "gpu", "retrain", "prepare", "server")


def test_the_compose_specification_allows_it() -> None:
    check(DOCUMENT)
    check(compose(BIND_ADDRESS="0.0.0.0", POSTGRES_PASSWORD="0123abcd", PHOTOS="/srv/photos"))


@pytest.mark.parametrize(
    "change",
    [
        {"read_olny": True},
        {"restart": "perhaps"},
        {"healthcheck": {"tset": ["NONE"]}},
        {"depends_on": {"database": {"condition": "hopefully"}}},
        {"ports": ["eight:8000"]},
        {"networks": ["nowhere"]},
        {"secrets": ["nowhere"]},
    ],
)
def test_the_check_by_the_specification_finds_a_mistake(change: dict[str, Any]) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["services"]["facesphere"].update(change)

    with pytest.raises(ValueError, match=r"."):
        check(document)


def test_plain_up_starts_the_server_alone_and_each_profile_adds_its_own() -> None:
    assert started(DOCUMENT) == {"facesphere"}
    assert started(DOCUMENT, "monitoring") == {"facesphere", "prometheus", "grafana"}
    assert started(DOCUMENT, "scale") == {"facesphere", "database", "prepare", "server", "proxy"}
    assert started(DOCUMENT, "gpu") == {"facesphere", "gpu"}
    assert started(DOCUMENT, "retrain") == {"facesphere", "retrain"}


@pytest.mark.parametrize("name", DOCUMENT["services"])
def test_every_container_has_a_read_only_root_no_capabilities_and_no_way_to_gain_any(name: str) -> None:
    service = DOCUMENT["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(each.startswith("/tmp") for each in service["tmpfs"])
    assert "privileged" not in service
    assert name == "database" or "cap_add" not in service


@pytest.mark.parametrize("name", DOCUMENT["services"])
def test_every_port_is_open_to_this_machine_alone_unless_asked(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in DOCUMENT["services"][name].get("ports", []))


@pytest.mark.parametrize("name", [name for name in DOCUMENT["services"] if name not in OURS])
def test_every_image_of_others_is_pinned_by_digest(name: str) -> None:
    assert re.fullmatch(r"[a-z/.-]+:[\w.-]+@sha256:[0-9a-f]{64}", DOCUMENT["services"][name]["image"])


@pytest.mark.parametrize("name", OURS)
def test_every_image_of_our_own_is_a_target_of_the_dockerfile(name: str) -> None:
    target = DOCUMENT["services"][name]["build"]["target"]

    assert re.search(rf"^FROM .* AS {target}$", (ROOT / "docker" / "Dockerfile").read_text(), re.M)
    assert DOCUMENT["services"][name]["image"] == f"facesphere:{target}"


def test_every_volume_that_is_named_is_declared_and_used() -> None:
    used = {
        volume.split(":")[0]
        for service in DOCUMENT["services"].values()
        for volume in service.get("volumes", [])
        if isinstance(volume, str) and not volume.startswith("./")
    }
    assert used == set(DOCUMENT["volumes"])


def test_what_is_mounted_from_the_checkout_is_there_and_read_only() -> None:
    for name, service in DOCUMENT["services"].items():
        for volume in service.get("volumes", []):
            if isinstance(volume, str) and volume.startswith("./"):
                source, _, mode = volume.split(":")
                assert (ROOT / source).exists(), (name, source)
                assert mode == "ro"


def test_the_retrain_job_sees_the_models_and_neither_the_gallery_nor_its_keys_nor_a_network() -> None:
    service = DOCUMENT["services"]["retrain"]
    mounted = {each if isinstance(each, str) else each["target"] for each in service["volumes"]}

    assert mounted == {"models:/models", "jobs:/jobs", "/photos", "/config/retrain.yaml"}
    assert service["network_mode"] == "none"


def test_the_database_is_reached_by_the_servers_alone() -> None:
    assert DOCUMENT["networks"]["back"]["internal"] is True
    behind = {name for name, each in DOCUMENT["services"].items() if "back" in each.get("networks", [])}
    assert behind == {"database", "prepare", "server"}
    assert "ports" not in DOCUMENT["services"]["database"]


def test_no_password_is_written_down() -> None:
    assert DOCUMENT["services"]["database"]["environment"]["POSTGRES_PASSWORD"] == ""
    assert "admin" not in str(DOCUMENT["services"]["grafana"]["environment"].get("GF_SECURITY_ADMIN_PASSWORD", ""))
