"""Checkpoint folders: config.yaml, model.safetensors, normalization.json, tokenizer.json, README.md.

A model that speaks in action tokens has action_tokenizer.json too, one with pretrained parts the small files
that give them their shape (see build.asset_names).

Everything is text or safetensors: loading a checkpoint runs no code from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_model import InstructionTokenizer
from foundry_bench.policies.action_tokens import read_action_tokenizer
from foundry_bench.policies.architectures import ModelConfig, read_config
from foundry_bench.policies.build import (
    ACTION_TOKENIZER,
    ASSETS,
    asset_names,
    make_model,
    pretrained_parts,
    read_tokenizer,
)
from foundry_bench.policies.checkpoint_files import (
    CARD,
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    card,
    folder_hash,
    read_sections,
)
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.normalization import Normalizer
from foundry_bench.policies.storage import (
    check_tensors,
    read_tensors,
    read_text,
    tensors_to_bytes,
    write_folder,
)
from foundry_bench.policies.vla_policy import VLAPolicy

__all__ = [
    "CARD", "CONFIG", "NORMALIZATION", "TOKENIZER", "WEIGHTS", "Checkpoint", "checkpoint_hash",
    "load_checkpoint", "load_vla_policy", "model_card", "save_checkpoint",
]  # fmt: skip

NORMALIZATION = "normalization.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything a folder holds, in memory."""

    config: ModelConfig
    weights: Mapping[str, Tensor]
    normalizer: Normalizer
    tokenizer: InstructionTokenizer
    about: Mapping[str, Any]  # plain sections beside "model": train, data, versions
    assets: Mapping[str, str] = field(default_factory=dict)  # ActionModel.assets


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the folder, replacing an older one only when this one is complete."""
    sections = {"model": checkpoint.config.to_dict(), **checkpoint.about}
    write_folder(
        folder,
        {
            CONFIG: yaml.safe_dump(sections, sort_keys=False).encode(),
            WEIGHTS: tensors_to_bytes(checkpoint.weights),
            NORMALIZATION: checkpoint.normalizer.to_json().encode(),
            TOKENIZER: checkpoint.tokenizer.to_json().encode(),
            CARD: model_card(checkpoint).encode(),
            **{name: text.encode() for name, text in checkpoint.assets.items()},
        },
    )


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder; FoundryError names what is missing, truncated, unknown or of another shape."""
    sections = read_sections(folder)
    try:
        config = read_config(sections.pop("model"))
    except (FoundryError, TypeError) as error:
        raise FoundryError(f"{folder / CONFIG}: {error}") from error
    weights = read_tensors(folder / WEIGHTS)
    assets = _assets(folder, config)
    texts = {**assets, TOKENIZER: read_text(folder / TOKENIZER)}
    tokenizer = read_tokenizer(config, texts, str(folder / TOKENIZER))
    with torch.device("meta"):
        expected = make_model(config, texts).state_dict()
    check_tensors(weights, expected, str(folder / WEIGHTS))
    normalizer = Normalizer.from_json(read_text(folder / NORMALIZATION), str(folder / NORMALIZATION))
    for name, scaling, size in (
        ("state", normalizer.state, config.state_dim),
        ("action", normalizer.action, config.action_dim),
    ):
        if len(scaling.offset) != size:
            raise FoundryError(
                f"{folder / NORMALIZATION}: {name} has {len(scaling.offset)} entries, config.yaml says "
                f"{size}; restore the folder or train again"
            )
    return Checkpoint(config, weights, normalizer, tokenizer, sections, assets)


def _assets(folder: Path, config: ModelConfig) -> dict[str, str]:
    """The small files of a folder, each found to be what its name says."""
    assets = {name: read_text(folder / name) for name in asset_names(config)}
    if ACTION_TOKENIZER in assets:
        read_action_tokenizer(
            assets[ACTION_TOKENIZER], cast("VLAConfig", config), str(folder / ACTION_TOKENIZER)
        )
    return assets


def load_vla_policy(folder: Path, device: str = "auto") -> VLAPolicy:
    """The policy of a checkpoint folder, ready to predict on ``device`` (auto: a GPU where there is one)."""
    checkpoint = load_checkpoint(folder)
    model = make_model(checkpoint.config, {**checkpoint.assets, TOKENIZER: checkpoint.tokenizer.to_json()})
    model.load_state_dict(dict(checkpoint.weights))
    return VLAPolicy(
        model,
        checkpoint.normalizer,
        checkpoint.tokenizer,
        checkpoint_hash=checkpoint_hash(folder),
        device=device,
    )


def checkpoint_hash(folder: Path) -> str:
    """12 hex digits over everything that determines the policy's actions (the model card does not)."""
    return folder_hash(folder, _hashed(folder))


def _hashed(folder: Path) -> list[str]:
    """Files that determine actions; the assets come after the ones all checkpoints have."""
    assets = [name for name in ASSETS if (folder / name).is_file()]
    return [CONFIG, WEIGHTS, NORMALIZATION, TOKENIZER, *assets]


_FROM_SCRATCH = (
    "A vision-language-action policy trained from scratch by foundry-bench on demonstrations of scripted",
    "experts in simulation. It has seen nothing else: expect nothing outside of its tasks.",
)
_ON_TOP = (
    "A vision-language-action policy trained by foundry-bench on demonstrations, on top of the pretrained",
    "parts named below, whose licences hold for it too. Expect nothing outside of its tasks.",
)


def model_card(checkpoint: Checkpoint) -> str:
    """README.md of a checkpoint: what it is, what it saw, how to run it."""
    config, about = checkpoint.config, checkpoint.about
    count = sum(tensor.numel() for tensor in checkpoint.weights.values())
    data, train = about.get("data", {}), about.get("train", {})
    rows = [
        ("parameters", f"{count / 1e6:.2f} M"),
        ("architecture", config.architecture),
        ("action head", config.head),
        ("cameras", f"{', '.join(config.cameras)} at {config.image_size} x {config.image_size} pixels"),
        ("chunk", f"{config.horizon} actions of {config.action_dim} ({config.action_convention})"),
        ("state", f"{config.state_dim} ({config.state_convention})"),
        ("trained on", f"{data.get('episodes', '?')} demonstrations, {data.get('frames', '?')} frames, "
                       f"fingerprint {data.get('fingerprint', '?')}"),
        ("training samples", str(train.get("samples", "?"))),
    ]  # fmt: skip
    parts = pretrained_parts(config)
    if parts:
        rows.insert(1, ("pretrained parts", ", ".join(parts)))
    code = (
        "from foundry_bench import load_policy",
        'policy = load_policy("path/to/this/folder")',
        "chunks = policy.predict(observations, noise_seeds)  # (batch, horizon, action_dim) in [-1, 1]",
    )
    about_it = _ON_TOP if parts else _FROM_SCRATCH
    return card(config.name, ("robotics", "vision-language-action", "LIBERO"), about_it, rows, code)
