"""A server on a GPU, which the processor plays here: nothing is opened or planned once it has started.

What a GPU itself gives is in tests/gpu.
"""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photos import astronaut, encode, group, hopper

from models import runtime
from models.errors import DeviceUnavailableError
from models.registry import Registry
from models.runtime import SessionOptions
from service.loading import build_inference
from service.settings import Settings


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The device of each session that is opened; what is asked of CUDA is done by the processor."""
    devices: list[str] = []
    monkeypatch.setitem(runtime._PROVIDERS, "cuda", "CPUExecutionProvider")
    monkeypatch.setattr(runtime, "_load_libraries", lambda: "")
    really = runtime._open

    def opens(path: Path, model: bytes, device: str, options: SessionOptions) -> tuple[Any, str]:
        devices.append(device)
        return really(path, model, device, options)

    monkeypatch.setattr(runtime, "_open", opens)
    return devices


@pytest.mark.parametrize(
    ("detector", "most", "sessions"),
    # Sizes of batch 1, 3 and 1, 4, 8; with the detector three squares more, of which the largest goes one by one.
    [("cpu", 3, ["cpu", *["cuda"] * 2]), ("cuda", 3, ["cuda"] * 7), ("cuda", 8, ["cuda"] * 10)],
)
def test_no_session_is_opened_once_a_server_on_a_gpu_has_started(
    tmp_path: Path, registry: Registry, opened: list[str], detector: str, most: int, sessions: list[str]
) -> None:
    settings = Settings(data_dir=tmp_path, device="cuda", detector_device=detector, max_batch=most, threads=4)
    inference = build_inference(settings, registry)
    assert opened == sessions
    files = [encode(photo, "JPEG") for photo in (astronaut(), hopper(), group(), np.tile(astronaut(), (3, 3, 1)))]

    async def all_at_once() -> list[int]:
        answers = await asyncio.gather(*(inference.faces.embed(data) for data in files * 2))
        return [len(answer.faces) for answer in answers]

    assert asyncio.run(all_at_once()) == [1, 1, 2, 9] * 2
    assert opened == sessions
    inference.close()


def test_faces_are_not_looked_for_on_a_gpu_where_the_embedder_is_not(
    tmp_path: Path, registry: Registry, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_AUTO", ("cpu",))
    with pytest.raises(DeviceUnavailableError, match="this one embeds on cpu"):
        build_inference(Settings(data_dir=tmp_path, device="auto", detector_device="cuda"), registry)
