"""Write the snapshots anew after a wanted change: .venv/bin/python tests/service/update_snapshots.py."""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "support")]

from live_server import live_server  # noqa: E402
from photos import ROOT  # noqa: E402
from test_contract_snapshots import SNAPSHOTS, openapi, proto_text  # noqa: E402

if __name__ == "__main__":
    models_dir = str(ROOT / ".cache/models")
    with tempfile.TemporaryDirectory() as data, live_server(Path(data), models_dir=models_dir) as server:
        (SNAPSHOTS / "openapi.json").write_text(json.dumps(openapi(server), indent=1) + "\n")
    (SNAPSHOTS / "face_embedding.txt").write_text(proto_text())
