"""The list of stages: what each reads, and what else it depends on."""

from training.retrain import data_stages, decision_stages, model_stages
from training.retrain.job import Stage

STAGES: tuple[Stage, ...] = (
    Stage("ingest", (), lambda job: data_stages.source_fingerprint(job.config.data), data_stages.ingest),
    Stage("align", ("ingest",), data_stages.align_section, data_stages.align, resumes=True),
    Stage("clean", ("ingest", "align"), data_stages.clean_section, data_stages.clean),
    Stage("split", ("align", "clean"), data_stages.split_section, data_stages.split),
    Stage("train", ("split",), model_stages.train_section, model_stages.train, resumes=True),
    Stage(
        "evaluate",
        ("split", "train"),
        lambda job: [job.config.evaluate.rounds, job.config.export.mirror],
        model_stages.evaluate,
    ),
    Stage(
        "calibrate",
        ("split", "train"),
        lambda job: [job.config.calibrate.rounds, job.config.export.mirror],
        model_stages.calibrate,
    ),
    Stage("export", ("train",), model_stages.export_section, model_stages.export),
    Stage("parity", ("split", "train", "export"), lambda job: None, model_stages.parity_check),
    Stage("compare", ("split", "export"), decision_stages.compare_section, decision_stages.compare),
    Stage(
        "gate",
        ("split", "calibrate", "parity", "compare"),
        lambda job: job.config.gate.model_dump(mode="json"),
        decision_stages.gate,
    ),
    Stage(
        "register",
        ("split", "clean", "train", "evaluate", "calibrate", "export", "compare", "gate"),
        decision_stages.register_section,
        decision_stages.register,
    ),
    Stage("promote", ("register", "gate"), decision_stages.promote_section, decision_stages.promote),
)
NAMES = tuple(stage.name for stage in STAGES)
