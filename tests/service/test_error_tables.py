"""Every code of the error tree is mapped once by each adapter."""

import importlib
import pkgutil

import pytest

import models
import service
from models.errors import FaceError
from service.grpc_api import errors as grpc_errors
from service.rest import errors as rest_errors


def _codes() -> set[str]:
    for package in (models, service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found, waiting = set(), [FaceError]
    while waiting:
        error = waiting.pop()
        found.add(error.code)
        waiting += error.__subclasses__()
    return found


@pytest.mark.parametrize("table", [rest_errors.STATUS, grpc_errors.STATUS], ids=["rest", "grpc"])
def test_every_code_is_mapped_and_no_mapping_is_left_over(table: dict[str, object]) -> None:
    assert set(table) == _codes()


def test_retry_after_comes_with_an_overload_and_a_challenge_with_a_missing_key() -> None:
    overloaded = rest_errors.error_response(service.errors.OverloadedError("full"), "id")
    missing = rest_errors.error_response(service.errors.UnauthenticatedError("no"), "id")

    assert (overloaded.status_code, overloaded.headers["retry-after"]) == (429, "1")
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
