"""docker/kubernetes: every object against the schemas of Kubernetes, and what holds them together."""

import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml
from photos import ROOT

from service.settings import PREFIX, Settings
from training.retrain.config import read_retrain

FOLDER = ROOT / "docker" / "kubernetes"
VERSION = "1.34.0"
Object = dict[str, Any]


def _objects(text: str) -> list[Object]:
    return [each for each in yaml.safe_load_all(text) if each]


def _base() -> list[Object]:
    names = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["resources"]
    return [each for name in names for each in _objects((FOLDER / "base" / name).read_text())]


def _built(name: str) -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which has kustomize in it, is not on this machine")
    run = subprocess.run(["kubectl", "kustomize", FOLDER / name], capture_output=True, text=True, check=True)
    return _objects(run.stdout)


def _only(objects: list[Object], kind: str) -> Object:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def _pods(objects: list[Object]) -> list[Object]:
    templates = [each["spec"]["template"] for each in objects if each["kind"] == "Deployment"]
    templates += [each["spec"]["jobTemplate"]["spec"]["template"] for each in objects if each["kind"] == "CronJob"]
    return [template["spec"] for template in templates]


def test_every_object_is_one_that_kubernetes_knows() -> None:
    for each in _base():
        kubernetes_validate.validate(each, VERSION, strict=True)


@pytest.mark.parametrize("name", ["base", "scaled"])
def test_kustomize_makes_objects_that_kubernetes_knows(name: str) -> None:
    for each in _built(name):
        kubernetes_validate.validate(each, VERSION, strict=True)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "facesphere"


def test_the_check_finds_a_misspelt_field() -> None:
    deployment = _only(_base(), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSION, strict=True)


@pytest.mark.parametrize("pod", _pods(_base()), ids=["server", "retrain"])
def test_every_pod_meets_the_restricted_standard_and_writes_to_volumes_alone(pod: Object) -> None:
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_every_claim_that_is_mounted_is_made_and_every_port_that_is_named_is_there() -> None:
    objects = _base()
    claims = {each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in _pods(objects)
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    ports = {each["name"] for each in _pods(objects)[0]["containers"][0]["ports"]}

    assert used == claims
    assert {each["targetPort"] for each in _only(objects, "Service")["spec"]["ports"]} == ports
    labels = _only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert _only(objects, "Service")["spec"]["selector"] == labels
    assert _only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels


def test_a_gallery_in_files_has_one_server_and_one_in_a_database_several() -> None:
    one, several = _only(_base(), "Deployment"), _built("scaled")

    assert (one["spec"]["replicas"], one["spec"]["strategy"]) == (1, {"type": "Recreate"})
    scaled = _only(several, "Deployment")
    assert "replicas" not in scaled["spec"]
    assert _only(several, "HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 2
    claims = {each["metadata"]["name"] for each in several if each["kind"] == "PersistentVolumeClaim"}
    assert claims == {"models", "jobs", "photos"}
    (container,) = scaled["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        assert variable["name"].removeprefix(PREFIX).lower() in Settings.model_fields


def test_a_pod_has_longer_to_stop_than_the_server_takes() -> None:
    pod = _pods(_base())[0]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert pod["terminationGracePeriodSeconds"] > before + Settings.model_fields["shutdown_grace_s"].default


def test_the_job_of_the_example_is_one_that_retrain_takes() -> None:
    job = read_retrain(FOLDER / "base" / "retrain" / "retrain.yaml")

    mounted = {each["mountPath"] for each in _pods(_base())[1]["containers"][0]["volumeMounts"]}
    assert {str(job.registry), f"/{str(job.job).split('/')[1]}"} <= mounted
