"""Whether a model may take the place of the one that serves: asked before it is promoted, by whoever promotes it."""

from models.bundle import Manifest
from service.errors import InvalidRequestError


def check_servable(manifest: Manifest, calibrated: bool, target_fmr: float) -> None:
    """Refuse an embedder that servers would refuse, or whose callers could not decide as they do.

    Args:
        manifest: of the model.
        calibrated: whether the present one has a calibration, so that callers state rates and no thresholds.
        target_fmr: the rate of 1:1 decisions where none is stated.

    Raises:
        InvalidRequestError: it has no calibration.
        CalibrationError: it has none down to that rate.
    """
    if manifest.calibration is not None:
        manifest.calibration.threshold_at(target_fmr)
    elif calibrated:
        raise InvalidRequestError(
            f"model {manifest.id} has no calibration, so nothing could be decided at a rate: run facesphere-train "
            "calibrate --apply"
        )
