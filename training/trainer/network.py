"""The network of a run: built, given weights to begin with, compiled, wrapped for many ranks."""

import shutil
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.backbones import build
from training.config import ConfigError, TrainConfig
from training.trainer.distributed import Ranks

# Compiling takes half a minute or more; a run of fewer photos than this does not win it back.
_WORTH_COMPILING = 50_000


def build_backbone(config: TrainConfig) -> nn.Module:
    """The backbone with fresh weights.

    Raises:
        ConfigError: an unknown name or parameter, or a size it cannot take.
    """
    spec = config.input
    channels = 1 if spec.channels == "gray" else 3
    named = config.backbone
    try:
        backbone: nn.Module = build(named.name, config.dimension, (spec.height, spec.width), channels, **named.params)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"backbone {named.name}: {error}") from error
    return backbone


def prepare(backbone: nn.Module, config: TrainConfig, ranks: Ranks, photos: int) -> nn.Module:
    """What the loop calls: the same weights, compiled and synchronised as the configuration asks.

    Raises:
        ConfigError: compile is on and there is no compiler.
    """
    network = backbone
    if _compiles(config, ranks, photos):
        network = cast(nn.Module, torch.compile(network))
    if ranks.many:
        devices = [ranks.device.index] if ranks.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids=devices)
    return network


def _compiles(config: TrainConfig, ranks: Ranks, photos: int) -> bool:
    if config.compile == "off":
        return False
    possible = ranks.device.type == "cuda" or bool(shutil.which("g++") or shutil.which("clang++"))
    if config.compile == "on":
        if not possible:
            raise ConfigError("compile is on, and there is no C++ compiler: install g++, or set compile: off")
        return True
    return possible and photos >= _WORTH_COMPILING


def optimiser(config: TrainConfig, backbone: nn.Module, objective: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over backbone and classifier; vectors and scalars are not decayed unless asked for."""
    settings = config.optimiser
    groups = []
    for module, scale in ((backbone, 1.0), (objective, settings.head_lr)):
        parameters = [p for p in module.parameters() if p.requires_grad]
        for decayed in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1 or settings.decay_all) == decayed]
            decay = settings.weight_decay if decayed else 0.0
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "scale": scale})
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
