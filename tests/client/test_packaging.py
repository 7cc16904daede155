"""The client by itself: what it needs, and that it says so."""

import subprocess
import sys
import tomllib

import facesphere_client as fc
from photos import ROOT

WITHOUT = """
import sys
for name in {missing}:
    sys.modules[name] = None
import facesphere_client as fc
fc.Client("http://127.0.0.1:9").close()
try:
    fc.Client("grpc://127.0.0.1:9").close()
except ImportError as error:
    print(error)
"""


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "client", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_needs_nothing_of_the_server_and_over_rest_no_grpc() -> None:
    missing = ["grpc", "google.protobuf", "service", "models", "training", "cryptography", "rich", "cv2", "fastapi"]

    assert "pip install 'facesphere-client[grpc]'" in _python(WITHOUT.format(missing=missing))


def test_over_grpc_it_needs_no_httpx() -> None:
    code = "import sys; sys.modules['httpx'] = None; import facesphere_client as fc; fc.Client('grpc://127.0.0.1:9').close()"

    assert _python(code) == ""


def test_its_versions_and_bounds_are_those_of_the_server() -> None:
    client, server = (
        tomllib.loads((ROOT / name).read_text())["project"] for name in ("client/pyproject.toml", "pyproject.toml")
    )
    named = {*client["dependencies"], *client["optional-dependencies"]["grpc"]}

    assert fc.__version__ == client["version"] == server["version"]
    assert named <= set(server["dependencies"])
