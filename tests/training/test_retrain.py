"""facesphere-train retrain: photos to a promoted bundle, in stages that resume."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from crops import people_set
from photos import ROOT
from retraining import SIZE, TRAIN, alone, bundle_digests, crops, job_file, registry_with, write_photos

from models.registry import Registry
from training.__main__ import main
from training.data.aligned import AlignedSet
from training.retrain import data_stages
from training.retrain.stages import NAMES
from training.retrain.state import JobFolder

KILLS = 2


def _run(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["retrain", "--config", str(path), *options])


def _done(result: Result) -> dict[str, bool]:
    """Stage to whether it was done before, as the output says."""
    lines = [line for line in result.stdout.splitlines() if line.partition(":")[0] in NAMES]
    return {line.partition(":")[0]: line.endswith("(done before)") for line in lines}


def _again(result: Result) -> list[str]:
    return [name for name, before in _done(result).items() if not before]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("source") / "photos", crops())


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A job that was run to its end; tests must not change it."""
    root = tmp_path_factory.mktemp("finished")
    registry_with(root / "models")
    return root, _run(job_file(root, photos))


@pytest.fixture
def copy(finished: tuple[Path, Result], photos: Path, tmp_path: Path) -> Path:
    """The same job, to be changed: its configuration file."""
    root = shutil.copytree(finished[0], tmp_path / "root", symlinks=True)
    return job_file(root, photos)


def test_photos_become_a_calibrated_champion(finished: tuple[Path, Result]) -> None:
    root, result = finished
    registry = Registry(root / "models")
    champion = registry.resolve("embedder").manifest

    assert result.exit_code == 0, result.output
    assert list(_done(result)) == list(NAMES)
    assert champion.id == "patterns-1"
    assert champion.calibration is not None
    assert champion.calibration.people > 20
    assert champion.lineage is not None
    assert champion.lineage.parent == "champion"
    assert registry.standing(champion) == "champion"
    assert registry.roll_back("embedder") == "champion"
    assert registry.standing(champion) == "retired"
    registry.promote("patterns-1")


def test_the_card_of_the_bundle_says_how_it_was_made_and_measured(finished: tuple[Path, Result]) -> None:
    card = Registry(finished[0] / "models").resolve("embedder", "patterns-1").card()

    assert card is not None
    assert "600 photos of 100 people" in card
    assert "held out from training" in card
    assert "against champion" in card


def test_the_report_is_one_page_that_loads_nothing(finished: tuple[Path, Result]) -> None:
    page = (finished[0] / "job" / "report.html").read_text()

    assert "<strong>Passed</strong> and promoted" in page
    assert "<h2>Against champion</h2>" in page
    assert "TAR at FMR 0.01" in page
    assert page.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!data:|#)', page)


SHADOW = {"share": 0.25, "compared": 1234, "same": 1230, "flipped_to_match": 1, "flipped_to_non_match": 3}


def test_what_a_server_counted_in_shadow_is_in_the_report_and_runs_nothing_again(copy: Path, photos: Path) -> None:
    name = yaml.safe_load(copy.read_text())["name"]
    counted = copy.parent / "shadow.json"
    counted.write_text(json.dumps({"model_id": name, **SHADOW, "mean_shift": -0.0123}))

    result = _run(copy, "--set", f"shadow={counted}")

    assert result.exit_code == 0, result.stderr
    assert _again(result) == []
    page = (copy.parent / "job" / "report.html").read_text()
    assert "In shadow" in page
    for shown in ("25 %", "1,234", "1,230", "-0.0123"):
        assert shown in page


@pytest.mark.parametrize(
    ("counted", "says"),
    [
        (None, "cannot read"),
        ("not json", "is no answer of GET /models/shadow"),
        (json.dumps({"model_id": "another", **SHADOW}), "is about another"),
        (json.dumps({"model_id": "new", **SHADOW, "same": 7}), "do not add up"),
    ],
)
def test_counts_that_are_not_of_this_model_are_one_line(copy: Path, counted: str | None, says: str) -> None:
    path = copy.parent / "shadow.json"
    if counted is not None:
        path.write_text(counted)

    result = _run(copy, "--set", f"shadow={path}")

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr


def test_a_second_run_does_nothing(copy: Path) -> None:
    result = _run(copy)

    assert result.exit_code == 0, result.output
    assert _again(result) == []


def test_a_changed_section_runs_again_what_follows_and_nothing_before(copy: Path, photos: Path) -> None:
    result = _run(job_file(copy.parent, photos, name="patterns-2", calibrate={"rounds": 21}, promote=False))

    assert result.exit_code == 0, result.output
    # The file is written again under its new name; what it gives is the same, so that nobody is compared anew.
    assert _again(result) == ["calibrate", "export", "parity", "compare", "gate", "register", "promote"]
    assert _again(_run(copy, "--set", "gate.margin=0.02")) == ["gate"]


def test_a_name_that_another_model_has_is_one_line(copy: Path, photos: Path) -> None:
    result = _run(job_file(copy.parent, photos, calibrate={"rounds": 21}))

    assert result.exit_code == 2
    assert "Error: register: another model named patterns-1 is there already" in result.stderr


def test_a_new_photo_is_noticed(finished: tuple[Path, Result], tmp_path: Path) -> None:
    root = shutil.copytree(finished[0], tmp_path / "root", symlinks=True)
    source = write_photos(tmp_path / "photos", crops())
    path = job_file(root, source)
    assert _again(_run(path, "--only", "ingest")) == ["ingest"]
    first = next((source / "person-00").glob("*.png"))
    shutil.copy(first, source / "person-00" / "another.png")

    result = _run(path, "--only", "ingest")

    assert "601 photos" in result.stdout


def _listed(folder: Path, photos: Path) -> Path:
    """A list in a folder of its own of photos that lie elsewhere."""
    folder.mkdir()
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "person"))
        rows.writerows((photo, photo.parent.name) for photo in sorted(photos.glob("*/*.png")))
    return folder / "list.csv"


def test_a_photo_that_a_list_names_outside_its_folder_is_noticed_and_other_files_beside_it_are_not(
    tmp_path: Path,
) -> None:
    registry_with(tmp_path / "models")
    photos = write_photos(tmp_path / "photos", crops(people=8))
    source = _listed(tmp_path / "lists", photos)
    path = job_file(tmp_path, source, job=str(source.parent / "job"))
    assert _again(_run(path, "--only", "ingest")) == ["ingest"]

    assert "ingest: 48 photos of 8 people (done before)" in _run(path, "--only", "align").stdout
    first, second = sorted(photos.glob("*/*.png"))[:2]
    shutil.copy(second, first)
    os.utime(first, ns=(0, 0))
    assert "run that stage first" in _run(path, "--only", "align").stderr


def test_a_source_of_shards_is_its_archives_and_not_the_job_beside_them(tmp_path: Path) -> None:
    registry_with(tmp_path / "models")
    photos = write_photos(tmp_path / "photos", crops(people=8))
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "part-0.tar", "w") as archive:
        for photo in sorted(photos.glob("*/*.png")):
            archive.add(photo, f"{photo.parent.name}/{photo.name}")
    path = job_file(tmp_path, tmp_path / "shards", job=str(tmp_path / "shards" / "job"))
    assert _again(_run(path, "--only", "ingest")) == ["ingest"]

    assert "ingest: 48 photos of 8 people (done before)" in _run(path, "--only", "align").stdout


def test_a_photo_whose_name_is_no_utf8_can_be_trained_on(tmp_path: Path) -> None:
    registry_with(tmp_path / "models")
    photos = write_photos(tmp_path / "photos", crops(people=8))
    first = next(photos.glob("*/*.png"))
    first.rename(first.with_name(os.fsdecode(b"\xff.png")))

    assert _run(job_file(tmp_path, photos), "--only", "ingest").exit_code == 0


def test_a_source_that_is_not_there_or_damaged_is_one_line_of_ingest(tmp_path: Path) -> None:
    registry_with(tmp_path / "models")
    (tmp_path / "list.csv").write_text("path,person\n1.jpg\n")

    for source, reason in (("list.csv", "line 2: 1 cells for 2 columns"), ("gone", "No such file or directory")):
        result = _run(job_file(tmp_path, tmp_path / source))
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("Error: ingest: ")
        assert reason in result.stderr


def test_one_stage_can_be_run_alone_where_its_inputs_are_there(copy: Path) -> None:
    result = _run(copy, "--only", "evaluate")

    assert result.exit_code == 0, result.output
    assert _again(result) == ["evaluate"]
    assert list(_done(result))[-1] == "evaluate"


def test_one_stage_alone_without_its_inputs_is_one_line(photos: Path, tmp_path: Path) -> None:
    registry_with(tmp_path / "models")

    result = _run(job_file(tmp_path, photos), "--only", "evaluate")

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Error: evaluate reads what ingest gives, which is not there; run that stage first"
    ]


def test_from_a_stage_on_everything_is_run_again(copy: Path) -> None:
    result = _run(
        copy,
        "--from",
        "export",
    )

    assert result.exit_code == 0, result.output
    assert _again(result) == list(NAMES[NAMES.index("export") :])


def test_a_candidate_that_is_worse_is_refused_and_the_champion_serves_on(copy: Path, photos: Path) -> None:
    root = copy.parent
    registry = Registry(root / "models")
    registry.promote("sharp")
    path = job_file(root, photos, name="patterns-2", gate={"fmr": 0.01, "against": "sharp", "margin": 0.001})
    weak = {**TRAIN, "steps": 2}

    result = _run(job_file(root, photos, name="patterns-2", train=weak, gate=yaml.safe_load(path.read_text())["gate"]))

    assert result.exit_code == 3
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("Error: gate: patterns-2 is refused: TAR at FMR 0.01 ")
    assert registry.champion("embedder") == "sharp"
    assert "patterns-2" not in {each.id for each in registry.list()}
    assert "<strong>Refused</strong>" in (root / "job" / "report.html").read_text()


def test_too_few_people_held_out_are_a_reason_to_refuse(copy: Path) -> None:
    result = _run(copy, "--set", "gate.min_people=1000", "--set", "name=patterns-1")

    assert result.exit_code == 3
    assert "people held out, at least 1000 are needed" in result.stderr


@pytest.mark.parametrize("against", ["champion", "none"])
def test_a_model_that_servers_could_not_decide_with_is_refused(copy: Path, against: str) -> None:
    result = _run(copy, "--set", "gate.serves_fmr=0.001", "--set", f"gate.against={against}", "--from", "compare")

    assert result.exit_code == 3
    assert "servers decide at 0.001: hold more people out" in result.stderr


def test_a_champion_that_changed_meanwhile_is_not_replaced(copy: Path, photos: Path) -> None:
    registry = Registry(copy.parent / "models")
    registry.promote("sharp")
    shutil.rmtree(next((copy.parent / "job" / "stages").glob("promote-*")))

    result = _run(copy)

    assert result.exit_code == 2
    assert "Error: promote: patterns-1 was to replace champion, but the champion is sharp" in result.stderr
    assert registry.champion("embedder") == "sharp"


def test_a_stage_that_fails_leaves_those_before_it_and_says_which_and_why(photos: Path, tmp_path: Path) -> None:
    registry = registry_with(tmp_path / "models")
    path = job_file(tmp_path, photos, split={"held_out": 0.001})

    result = _run(path)

    assert result.exit_code == 2
    assert "Error: split: " in result.stderr
    assert registry.champion("embedder") == "champion"
    assert _again(_run(path)) == []  # all that was done stays done


@pytest.mark.parametrize("kill_at", [1, 2])
def test_a_kill_while_the_output_of_a_stage_is_exchanged_loses_neither_old_nor_new(
    copy: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    class Killed(BaseException):
        pass

    renames = 0
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += "evaluate-" in self.name
        if renames == kill_at and "evaluate-" in self.name:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            _run(copy, "--only", "evaluate")
    result = _run(copy)
    assert result.exit_code == 0, result.output
    assert _again(result) == []
    assert not list((copy.parent / "job" / "stages").glob(".old-*"))


def test_a_disk_that_fails_at_the_very_end_of_a_stage_is_one_line(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    result = _run(copy, "--only", "evaluate")

    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if "report" not in line] == [
        "Error: evaluate: [Errno 28] No space left on device"
    ]


@pytest.mark.parametrize(
    ("change", "status"), [("gate.min_people=1000", 3), ("split.held_out=0.001", 2), ("gate.margin=0.01", 0)]
)
def test_a_report_that_cannot_be_written_does_not_hide_how_the_job_ended(copy: Path, change: str, status: int) -> None:
    report = copy.parent / "job" / "report.html"
    report.unlink()
    (report / "in the way").mkdir(parents=True)

    result = _run(copy, "--set", change)

    assert result.exit_code == status
    assert "report: could not be written: cannot write " in result.stderr
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == (status != 0)


def test_another_number_of_rounds_measures_the_champion_anew_as_well(copy: Path) -> None:
    more = ("--set", "evaluate.rounds=21")
    assert _run(copy, *more, "--only", "evaluate").exit_code == 0

    assert "gate reads what compare gives, which is not there" in _run(copy, *more, "--only", "gate").stderr


def test_two_processes_do_not_work_on_one_job(copy: Path) -> None:
    with JobFolder(copy.parent / "job").held():
        result = _run(copy)

    assert result.exit_code == 2
    assert "another process is at work on the job" in result.stderr


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("nonsense", 1, "Extra inputs are not permitted"),
        ("train", {**TRAIN, "optimizer": {}}, "optimizer"),
        ("train", {**TRAIN, "name": "x"}, "name is set by the job"),
        ("gate", {"fmr": 0}, "gate.fmr"),
        ("align", {"template": "round"}, "known templates"),
    ],
)
def test_a_wrong_key_is_one_line_before_any_work(photos: Path, tmp_path: Path, key: str, value: Any, says: str) -> None:
    result = _run(job_file(tmp_path, photos, **{key: value}))

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr
    assert not (tmp_path / "job").exists()


# Cleaning within a job.


def _poisoned(data: Any, share: float) -> tuple[list[str], set[str]]:
    rng = np.random.default_rng(5)
    labels = data.labels.copy()
    rows = rng.permutation(len(labels))[: int(share * len(labels))]
    labels[rows] = (labels[rows] + rng.integers(1, len(data.people), len(rows))) % len(data.people)
    return [data.people[label] for label in labels], {f"{data.photos[row].replace('/', '-')}.png" for row in rows}


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A job, as far as cleaning, in which every fifth photo lies in another person's folder; and which those are."""
    root = tmp_path_factory.mktemp("poisoned")
    data = crops(noise=20.0)
    names, wrong = _poisoned(data, 0.2)
    registry_with(root / "models")
    path = job_file(root, write_photos(root / "photos", data, names))
    for stage in ("ingest", "align", "clean"):
        assert _run(path, "--only", stage).exit_code == 0
    return path, wrong


def _review(path: Path) -> list[dict[str, str]]:
    (file,) = (path.parent / "job" / "stages").glob("clean-*/review.csv")
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_wrong_labels_are_found_and_given_back_to_their_people(poisoned: tuple[Path, set[str]]) -> None:
    path, wrong = poisoned
    rows = [row for row in _review(path) if row["finding"] in ("wrong_label", "outlier", "disagreement")]
    found = {row["photo"].rpartition("/")[2] for row in rows}

    assert len(wrong) == 120
    assert len(found & wrong) / len(wrong) > 0.95
    assert len(found & wrong) / len(found) > 0.95
    moved = [row for row in rows if row["decision"].startswith("move:")]
    right = [row["photo"].rpartition("/")[2].startswith(row["decision"].removeprefix("move:")) for row in moved]
    assert len(moved) > 90
    assert np.mean(right) > 0.95


def test_the_decisions_of_a_person_win_over_what_was_found(poisoned: tuple[Path, set[str]], tmp_path: Path) -> None:
    root = shutil.copytree(poisoned[0].parent, tmp_path / "root", symlinks=True)
    rows = _review(poisoned[0])
    moved = next(row for row in rows if row["decision"].startswith("move:"))
    other = next(photo for photo in sorted((root / "photos").glob("*/*.png")) if photo.name not in poisoned[1])
    review = root / "review.csv"
    review.write_text(
        "photo,person,decision\n"
        f"{moved['photo']},{moved['person']},keep\n"
        f"{other.parent.name}/{other.name},{other.parent.name},drop\n"
    )
    path = job_file(root, poisoned[0].parent / "photos", clean={"review": str(review)})

    result = _run(path, "--only", "clean")

    assert result.exit_code == 0, result.output
    (folder,) = (
        each.parent for each in root.glob("job/stages/clean-*/done.json") if '"verdicts": 2' in each.read_text()
    )
    names = json.loads((folder / "names.json").read_text())
    (aligned,) = root.glob("job/stages/align-*/set/set.json")
    photos = json.loads(aligned.read_text())["photos"]
    assert names[photos.index(moved["photo"])] == moved["person"]
    assert names[photos.index(f"{other.parent.name}/{other.name}")] is None


def test_a_review_that_names_a_photo_that_is_not_there_is_one_line(copy: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "review.csv").write_text("photo,person,decision\nnobody/1.png,nobody,drop\n")

    result = _run(job_file(copy.parent, photos, clean={"review": str(tmp_path / "review.csv")}))

    assert result.exit_code == 2
    assert f"Error: clean: {tmp_path}/review.csv, line 2: there is no photo 'nobody/1.png' of 'nobody'" in result.stderr


# Lists with groups, trusted sets.


def test_groups_of_a_list_are_compared_each_and_reported(tmp_path: Path) -> None:
    data = crops()
    write_photos(tmp_path / "photos", data)
    rows = sorted((tmp_path / "photos").glob("*/*.png"))
    with (tmp_path / "photos" / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "person", "site"))
        for row in rows:
            site = "north" if row.parent.name < "person-90" else "south"
            writer.writerow((row.relative_to(tmp_path / "photos"), row.parent.name, site))
    registry_with(tmp_path / "models")

    result = _run(job_file(tmp_path, tmp_path / "photos" / "list.csv"))

    assert result.exit_code == 0, result.output
    (found,) = (tmp_path / "job" / "stages").glob("compare-*/compare.json")
    assert [each["name"] for each in json.loads(found.read_text())] == ["all", "site north", "site south"]
    page = (tmp_path / "job" / "report.html").read_text()
    assert "<h2>Groups</h2>" in page
    assert "people are too few to judge it by" in page


def test_people_of_a_trusted_set_are_held_out_and_their_photos_are_not_trained_on(
    finished: tuple[Path, Result], photos: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(finished[0], tmp_path / "root", symlinks=True)
    data = crops()
    others = people_set(30, 6, SIZE, seed=3)
    known = data.labels < 3
    names = [f"other-{others.people[label]}" for label in others.labels]
    names += [data.people[label] for label in data.labels[known]]
    # The very photo of a person who is trained on, under a name that only the trusted set knows.
    copied = np.flatnonzero(data.labels == 50)[:1]
    trusted = AlignedSet.of(
        np.concatenate([others.crops, data.crops[known], data.crops[copied]]),
        [*names, "other-copied"],
        [f"{number}.png" for number in range(len(names) + 1)],
        "arcface",
    )
    trusted.save(tmp_path / "trusted")

    result = _run(job_file(root, photos, split={"trusted": str(tmp_path / "trusted")}), "--only", "split")

    assert result.exit_code == 0, result.output
    assert "; 1 near duplicates of those removed from training" in result.stdout
    (folder,) = (each.parent for each in root.glob("job/stages/split-*/done.json") if '"leaked": 1' in each.read_text())
    train = AlignedSet.open(folder / "train")
    assert not set(data.people[:3]) & set(train.people)
    assert train.counts[train.people.index(data.people[50])] == 5


# Kills.


def _process(path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "training", "retrain", "--config", str(path)]
    return subprocess.Popen(command, cwd=ROOT, env=alone(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _killed_after(path: Path, seconds: float) -> bool:
    """Whether it was killed: seconds from its first output on."""
    with _process(path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        return process.wait(60) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_job_that_is_killed_over_and_over_ends_in_the_same_bundle(
    finished: tuple[Path, Result], photos: Path, tmp_path: Path
) -> None:
    _kill_and_compare(finished[0], photos, tmp_path, round(50 * float(os.environ.get("TORTURE", "1"))))


@pytest.mark.timeout(400)
def test_a_job_that_is_killed_ends_in_the_same_bundle(
    finished: tuple[Path, Result], photos: Path, tmp_path: Path
) -> None:
    _kill_and_compare(finished[0], photos, tmp_path, KILLS)


def _kill_and_compare(reference: Path, photos: Path, tmp_path: Path, kills: int) -> None:
    """Kills at moments spread evenly over a whole run; a job that came to its end is compared, and another begun."""
    dice = random.Random(kills)
    seconds = _whole_run(_begun(tmp_path / "timed", photos))
    done = number = 0
    while done < kills:
        root = tmp_path / f"root-{number}"
        path = _begun(root, photos)
        while done < kills and _killed_after(path, dice.uniform(0, seconds)):
            done += 1
        _whole_run(path)
        mine, theirs = Registry(root / "models"), Registry(reference / "models")
        assert bundle_digests(mine, "patterns-1") == bundle_digests(theirs, "patterns-1")
        assert mine.champion("embedder") == "patterns-1"
        number += 1


def _begun(root: Path, photos: Path) -> Path:
    registry_with(root / "models")
    return job_file(root, photos)


def _whole_run(path: Path) -> float:
    """Run to the end: seconds from its first line on."""
    with _process(path) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        began = time.monotonic()
        lines += process.stdout.readlines()
        assert process.wait(60) == 0, "".join(lines)
        return time.monotonic() - began


def test_a_model_compared_with_another_than_the_champion_stays_a_candidate(copy: Path, photos: Path) -> None:
    registry = Registry(copy.parent / "models")
    registry.promote("sharp")

    result = _run(job_file(copy.parent, photos, name="patterns-2", gate={"against": "patterns-1"}), "--from", "compare")

    assert result.exit_code == 0, result.output
    assert "patterns-2 stays a candidate: it was compared with patterns-1, and the champion is" in result.output
    assert registry.champion("embedder") == "sharp"


def test_a_model_compared_with_nobody_does_not_take_the_place_of_a_champion(copy: Path, photos: Path) -> None:
    result = _run(job_file(copy.parent, photos, name="patterns-2", gate={"against": "none"}), "--from", "compare")

    assert result.exit_code == 0, result.output
    assert "patterns-2 stays a candidate: it was compared with nobody, and the champion is patterns-1" in result.output
    assert Registry(copy.parent / "models").champion("embedder") == "patterns-1"


def test_a_promotion_that_was_undone_is_told_and_not_done_again(copy: Path) -> None:
    registry = Registry(copy.parent / "models")
    registry.roll_back("embedder")

    result = _run(copy)

    assert result.exit_code == 2
    assert "patterns-1 was promoted by this job and is champion no longer, champion is" in result.stderr
    assert registry.champion("embedder") == "champion"


def test_a_person_of_the_trusted_set_under_another_name_is_not_trained_on() -> None:
    before = ["Ann", "Ann", "Bob", "Cid", "Dan"]
    after = ["Ann", "Bob", "Bob", "Cid", "Eve"]

    kept = data_stages._unrelated(before, after, {"Ann", "Eve"})

    assert kept.tolist() == [False, False, False, True, False]
