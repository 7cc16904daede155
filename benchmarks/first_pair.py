"""From nothing to the first verified pair: the commands of the README, word for word, and the seconds of each step.

    python benchmarks/first_pair.py [--json OUT]

What is committed is cloned into an empty folder; `make serve` makes its environment there, fetches packages and models
and starts; the README's call of /verify decides on two photos. pip's and the project's caches are empty ones, in that
folder, so that everything comes over the network; how fast that is, is part of the number. Port 8000 must be free.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commandline import in_one_line

ROOT = Path(__file__).parents[1]
PHOTOS = """
import numpy, skimage.data
from PIL import Image
photo = numpy.asarray(skimage.data.astronaut())
Image.fromarray(photo).save("alice.jpg")
Image.fromarray(photo[:, ::-1]).save("alice2.jpg")
"""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-pair-") as folder:
        steps, answer = first_pair(Path(folder))
    for name, seconds in steps.items():
        print(f"{name:<44} {seconds:7.1f} s")
    print(f"{'from the clone to the answer':<44} {sum(steps.values()):7.1f} s")
    print(f"matched: {answer['matched']}, similarity {answer['similarity']:.3f} >= {answer['threshold']:.3f}")
    if asked.json:
        asked.json.write_text(json.dumps({"seconds": steps, "answer": answer}, indent=1) + "\n")


def first_pair(folder: Path) -> tuple[dict[str, float], dict[str, object]]:
    """Seconds of each step, and what was answered."""
    clone = folder / "facesphere"
    steps: dict[str, float] = {}
    empty = {"HOME": "home", "XDG_CACHE_HOME": "cache", "PIP_CACHE_DIR": "pip"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FACESPHERE_", "PYTHONPATH"))}
    env = {**kept, **{name: str(folder / each) for name, each in empty.items()}}
    (folder / "home").mkdir()
    subprocess.run([sys.executable, "-c", PHOTOS], cwd=folder, check=True)

    began = time.monotonic()
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(clone)], check=True)
    steps["git clone"] = time.monotonic() - began
    for name in ("alice.jpg", "alice2.jpg"):
        (folder / name).rename(clone / name)

    serve, verify = _commands((clone / "README.md").read_text(encoding="utf-8"))
    began = time.monotonic()
    server = subprocess.Popen(
        serve, shell=True, cwd=clone, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if line.startswith("{"):
                break
        else:
            raise SystemExit("the server did not start")
        steps[f"{serve}: until it is ready"] = time.monotonic() - began
        began = time.monotonic()
        run = subprocess.run(verify, shell=True, cwd=clone, env=env, check=True, capture_output=True, text=True)
        steps["curl .../verify"] = time.monotonic() - began
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    return steps, json.loads(run.stdout)


def _commands(readme: str) -> tuple[str, str]:
    """The one that starts, and the one that verifies two photos."""
    commands = [re.sub(r"\s+#\s.*", "", line) for line in readme.splitlines()]
    return "make serve", next(line for line in commands if line.startswith("curl") and line.endswith("/verify"))


if __name__ == "__main__":
    in_one_line(main)
