"""A server with two embedders of one dimension, people to enrol, and what must hold while one follows the other."""

import base64
import functools
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from photos import astronaut, encode

from models import zoo
from models.registry import Registry

OLD, NEW = zoo.DEFAULT_EMBEDDER, "facesphere-mobile-1-int8"


def two_models(models_dir: Path, folder: Path) -> Registry:
    """A registry in `folder` with the default models, of which OLD is promoted, and NEW."""
    registry = Registry(shutil.copytree(models_dir, folder))
    zoo.pull(registry, NEW)
    return registry


@functools.cache
def photo(number: int) -> bytes:
    """A photo of somebody: one face under many lights, which no two models see alike."""
    random = np.random.default_rng(number)
    image = astronaut()[0:240, 130:330].astype(np.float32)
    tint, noise = random.uniform(0.6, 1.2, 3), random.normal(0, 12, image.shape)
    turned = cv2.warpAffine(
        np.clip(image * tint + noise, 0, 255).astype(np.uint8),
        cv2.getRotationMatrix2D((100, 120), float(random.uniform(-12, 12)), float(random.uniform(0.9, 1.05))),
        (200, 240),
        borderMode=cv2.BORDER_REFLECT,
    )
    return encode(turned)


def put(client: httpx.Client, collection: str, crops: bool = True) -> None:
    """A collection that stores crops, or does not."""
    answer = client.put(f"/collections/{collection}", json={"purpose": "test", "store_crops": crops})
    assert answer.status_code in (200, 201), answer.text


def enrol(client: httpx.Client, collection: str, number: int) -> httpx.Response:
    """Enrol person `number` by their photo."""
    return client.post(
        f"/collections/{collection}/subjects/person-{number}/faces",
        files={"images": photo(number)},
    )


def identify(client: httpx.Client, collection: str, number: int) -> httpx.Response:
    """Look for person `number` by the photo that they were enrolled with."""
    body = {"image": base64.b64encode(photo(number)).decode(), "threshold": -1, "limit": 1000}
    return client.post(f"/collections/{collection}/identify", json=body)


def found(client: httpx.Client, collection: str, number: int) -> str:
    """That they are found by the photo that they were enrolled with; the model that said so.

    Under one model that is a cosine of 1, or of about 0.98 where the new model's crop was made of the old one's. Under
    two models it would be anything around 0.
    """
    answer = identify(client, collection, number)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    own = [each["similarity"] for each in document["candidates"] if each["subject"] == f"person-{number}"]
    assert own, f"person-{number} is lost"
    assert own[0] > 0.95, f"person-{number} is at {own[0]} of themselves"
    model: str = document["model"]["id"]
    return model


def activate(client: httpx.Client, model_id: str) -> dict[str, Any]:
    """Activate a model and wait for the job's end."""
    answer = client.post(f"/models/{model_id}/activate")
    assert answer.status_code == 202, answer.text
    return ended(client, answer.json()["id"])


def ended(client: httpx.Client, job_id: str, seconds: float = 60) -> dict[str, Any]:
    """A job, when it is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"the job did not end: {job}")


def moved(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What became of each collection, by its name."""
    return {each["collection"]: each for each in job["collections"]}
