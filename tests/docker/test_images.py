"""The images: their files, their steps, and what runs in them, as ordinary processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer, environment, live_server
from photos import ROOT

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
SCRIPTS = sorted(DOCKER.glob("*.sh"))


def _entrypoint(data: Path, models_dir: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    places = {"data_dir": str(data / "data"), "keys_dir": str(data / "keys"), "models_dir": str(models_dir)}
    env = environment(**places, port="0", grpc_port="0", host="0.0.0.0", **settings)
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    return subprocess.Popen(
        [str(DOCKER / "entrypoint.sh"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=ROOT,
    )


def _until_ready_then_stopped(process: subprocess.Popen[str], key: str | None = None) -> tuple[list[str], int]:
    """What the server said before it was ready, on stderr, and how it ended; a call is made with the first key."""
    assert process.stdout is not None
    ready = process.stdout.readline()
    url = re.sub(r".*(http://)0\.0\.0\.0(:\d+).*", r"\g<1>127.0.0.1\2", ready.strip())
    assert httpx.get(f"{url}/models").status_code == 401
    if key is not None:
        assert httpx.get(f"{url}/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert rest == ""
    return re.findall(r"^fs_\w{8}_[\w-]+$", errors, re.M), process.returncode


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")

    run = subprocess.run([linter, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_the_base_images_are_pinned_by_digest_and_nothing_else_is_pulled() -> None:
    for name in ("PYTHON_IMAGE", "CUDA_IMAGE"):
        assert re.search(rf"^ARG {name}=[\w./-]+:[\w.-]+@sha256:[0-9a-f]{{64}}$", DOCKERFILE, re.M)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    bases = re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.M)
    assert set(bases) <= {"${PYTHON_IMAGE}", "${CUDA_IMAGE}", *stages}
    assert stages[-1] == "cpu"  # what plain `docker build` makes


@pytest.mark.parametrize("target", ["cpu", "gpu", "retrain"])
def test_every_image_runs_as_somebody_without_rights(target: str) -> None:
    stage = re.split(r"^FROM ", DOCKERFILE, flags=re.M)
    bodies = {body.split()[2]: body for body in stage[1:]}
    body = bodies[target]
    while "USER " not in body:
        body = bodies[body.split()[0]]

    assert re.findall(r"^USER (\S+)$", body, re.M)[-1] == "10001:10001"


def test_everything_that_is_copied_into_an_image_is_let_through_and_nothing_of_a_gallery_is() -> None:
    rules = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]]

    assert "*" in rules
    assert not {"data", "data.keys", ".venv", ".git", "."} & let_through
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(path == each or path.startswith(f"{each}/") for each in let_through), path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    shell = script.read_text().splitlines()[0].rpartition("/")[2].split()[-1]
    subprocess.run([shell, "-n", script], check=True)


@pytest.mark.parametrize("name", ["cpu", "gpu", "train"])
def test_what_an_image_installs_is_pinned_and_covers_what_the_project_asks_for(name: str) -> None:
    text = (DOCKER / "requirements" / f"{name}.txt").read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==\S+", text, re.M))
    project = (ROOT / "pyproject.toml").read_text()
    asked = re.findall(r'"([a-z-]+)>=', project.partition("dependencies = [")[2].partition("]")[0])

    assert set(asked) <= pinned
    assert text.count("==") - text.count("' ") // 2 <= text.count("--hash=sha256:")
    runtime = "onnxruntime-gpu" if name == "gpu" else "onnxruntime"
    assert {each for each in pinned if each.startswith("onnxruntime")} == {runtime}


def test_the_gpu_image_takes_the_runtime_of_its_cuda() -> None:
    version = re.search(r"^onnxruntime-gpu==1\.(\d+)", (DOCKER / "requirements" / "gpu.txt").read_text(), re.M)

    assert version is not None
    assert int(version[1]) <= 26  # 1.27 and later are built for CUDA 13
    assert "CUDA_IMAGE=nvidia/cuda:12." in DOCKERFILE


def test_the_first_start_prints_a_key_that_works_and_the_second_none_and_sigterm_stops_both(
    models_dir: Path, tmp_path: Path
) -> None:
    first = _entrypoint(tmp_path, models_dir, "serve")
    assert first.stderr is not None
    assert "shown this once" in first.stderr.readline()
    key = first.stderr.readline().strip()

    assert _until_ready_then_stopped(first, key) == ([], 0)
    assert _until_ready_then_stopped(_entrypoint(tmp_path, models_dir, "serve"), key) == ([], 0)


def test_no_key_is_made_where_somebody_has_chosen_one(models_dir: Path, tmp_path: Path) -> None:
    chosen = "a-key-of-their-own-0123456789"

    keys, status = _until_ready_then_stopped(_entrypoint(tmp_path, models_dir, "serve", api_key=chosen), chosen)

    assert (keys, status) == ([], 0)


def test_prepare_makes_the_key_and_ends(models_dir: Path, tmp_path: Path) -> None:
    for expected in (1, 0):
        process = _entrypoint(tmp_path, models_dir, "prepare")
        out, errors = process.communicate(timeout=60)
        assert (out, process.returncode) == ("", 0)
        assert len(re.findall(r"^fs_\w{8}_[\w-]+$", errors, re.M)) == expected


def test_a_start_that_cannot_make_its_key_says_why_in_one_line_and_does_not_serve(
    models_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("no folder")

    process = _entrypoint(tmp_path, models_dir, "serve")
    out, errors = process.communicate(timeout=60)

    assert process.returncode != 0
    assert out == ""
    assert len(errors.splitlines()) == 1, errors


def _healthy(url: str, **others: str) -> int:
    port = url.rpartition(":")[2]
    # -I -S: the standard library alone, as in an image whose environment is broken.
    probe = [sys.executable, "-I", "-S", str(DOCKER / "healthcheck.py")]
    run = subprocess.run(probe, env=environment(port=port, **others), capture_output=True, text=True, check=False)
    assert len(run.stderr.splitlines()) == (run.returncode != 0)
    return run.returncode


def test_the_health_check_tells_a_ready_server_from_none(server: LiveServer, models_dir: Path, tmp_path: Path) -> None:
    assert _healthy(server.http, host="0.0.0.0") == 0
    assert _healthy(server.http, tls_cert="x") == 1
    with live_server(tmp_path, models_dir=str(models_dir)) as stopped:
        assert stopped.stop() == 0
    assert _healthy(stopped.http) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_of_the_image_give_a_server_that_needs_no_network(tmp_path: Path) -> None:
    home = tmp_path / "image"
    source = tmp_path / "src"
    for name in ("models", "service", "training"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    env = {**environment(), "FACESPHERE_HOME": str(home)}
    for step in (("requirements", str(DOCKER / "requirements" / "cpu.txt")), ("project", str(source))):
        subprocess.run([DOCKER / "install.sh", *step], env=env, check=True, cwd=tmp_path)
    shutil.rmtree(source)

    # A proxy that nobody is: whatever wanted the network would fail.
    nowhere = {"https_proxy": "http://127.0.0.1:9", "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    process = subprocess.Popen(
        [home / "bin" / "facesphere", "serve", "--port", "0", "--grpc-port", "0", "--data-dir", tmp_path / "data"],
        env={**environment(), **nowhere, "XDG_CACHE_HOME": str(home / "cache")},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert '"ready": true' in process.stdout.readline()
    process.terminate()
    assert process.wait(60) == 0
    process.stdout.close()
    assert not list(home.glob("lib/python3*/site-packages/torch"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_image_runs_read_only_without_rights_and_without_a_network(tmp_path: Path) -> None:
    if os.geteuid() or not all(map(shutil.which, ("buildah", "debootstrap", "unshare", "setpriv"))):
        pytest.skip("needs root, buildah and debootstrap")

    run = subprocess.run(
        [ROOT / "tests" / "docker" / "image_without_docker.sh", tmp_path], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    first, _, second = run.stdout.partition("second start")
    for start in (first, second):
        assert "healthy" in start
        assert "Read-only file system" in start
        assert "exit status 0" in start
    assert re.search(r"^fs_", first, re.M)
    assert not re.search(r"^fs_", second, re.M)
