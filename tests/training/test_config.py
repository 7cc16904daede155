"""Configurations: every key known, every value checked, one clear line on what is wrong."""

from pathlib import Path

import pytest
import yaml

from training.config import ConfigError, config_yaml, parse_config, read_config

MINIMAL = {
    "name": "small",
    "data": {"train": "crops"},
    "backbone": {"name": "sphereface"},
    "loss": {"name": "softmax"},
    "steps": 10,
}


def test_a_minimal_configuration_has_all_defaults_written_out() -> None:
    config = parse_config(MINIMAL)

    assert yaml.safe_load(config_yaml(config))["optimiser"]["momentum"] == 0.9
    assert parse_config(yaml.safe_load(config_yaml(config))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spteps": 3}, "spteps"),
        ({"optimiser": {"lr": 0.1, "momentun": 0.9}}, "optimiser.momentun"),
        ({"optimiser": {"lr": "fast"}}, "optimiser.lr"),
        ({"optimiser": {"lr": float("nan")}}, "optimiser.lr"),
        ({"epochs": 3}, "either steps or epochs"),
        ({"steps": None}, "either steps or epochs"),
        ({"loss": None}, "nothing to learn from"),
        ({"loss": {"name": "triplet"}}, "sampler.kind: people"),
        ({"loss": {"name": "triplet"}, "sampler": {"kind": "people"}, "batch": 64, "accumulate": 2}, "accumulate"),
        ({"sampler": {"kind": "people", "people": 3, "images": 3}}, "batch must be"),
        ({"schedule": {"name": "step"}}, "milestones"),
        ({"schedule": {"name": "cosine", "milestones": [3]}}, "schedule cosine has no milestones"),
        ({"sampler": {"kind": "people", "people": 8, "images": 16, "cap": 3}, "batch": 128}, "sampler.cap"),
        ({"optimiser": {"name": "adamw", "nesterov": True}}, "nesterov is of sgd"),
        ({"sample_rate": 0.5}, "sharded"),
        ({"device": "cpu", "precision": "fp16"}, "bf16"),
        ({"name": "Has Blanks"}, "name"),
        ({"steps": True}, "steps must not be true"),
        ({"ema": False}, "ema must not be false"),
        ({"batch": 10**12}, "batch"),
        ({"schedule": {"factor": 1e300}}, "schedule.factor"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**MINIMAL, **change})

    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("content", "message"), [("- 1\n", "keys and values"), ("a: [", "not YAML"), ("\x00", "YAML")])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)

    with pytest.raises(ConfigError, match=message):
        read_config(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")


def test_single_values_can_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))

    config = read_config(file, ("optimiser.lr=0.05", "loss.params.margin=4", "steps=3"))

    assert config.optimiser.lr == 0.05
    assert config.loss is not None
    assert config.loss.params == {"margin": 4}
    assert config.steps == 3


@pytest.mark.parametrize(
    "override", ["steps", "=3", "steps.more=3", "steps=[", "stops=3", "name=2026-13-45", "name=!!int x"]
)
def test_a_wrong_replacement_is_refused(tmp_path: Path, override: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))

    with pytest.raises(ConfigError):
        read_config(file, (override,))


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[2].glob("training/configs/*.yaml")), ids=lambda p: p.stem
)
def test_every_configuration_of_the_project_is_valid(file: Path) -> None:
    assert read_config(file).name == file.stem
