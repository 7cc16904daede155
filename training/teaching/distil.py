"""What a student is told by its teacher.

    cosine      1 - cos(student_i, teacher_i), mean over the batch
    relation    mean over pairs of (cos(student_i, student_j) - cos(teacher_i, teacher_j))^2
                (after Park et al., "Relational Knowledge Distillation", CVPR 2019, with similarities for distances)

The cosine term makes the two spaces one: thresholds carry over roughly. The relational term only asks that faces lie to
one another as they do in the teacher's space, and looks at N^2 values where the first looks at N.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.classification import full_precision


def cosine_loss(features: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine of features (N, D) and the teacher's unit vectors (N, D), mean over the batch."""
    with torch.autocast(features.device.type, enabled=False):
        return (1 - (F.normalize(full_precision(features), dim=1) * targets).sum(dim=1)).mean()


def relation_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference of the similarities of all pairs; the two may differ in dimension."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(full_precision(features), dim=1)
        return (unit @ unit.T - targets @ targets.T).square().mean()
