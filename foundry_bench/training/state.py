"""Trainer state on disk: weights, moving average, moments and where the run stands. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.storage import (
    check_tensors,
    read_tensors,
    read_text,
    settle_folder,
    tensors_to_bytes,
    write_folder,
)
from foundry_bench.training.config import HARMLESS

TENSORS, PROGRESS = "trainer.safetensors", "trainer.json"


@dataclass(frozen=True)
class TrainerState:
    """Everything that resuming needs.

    The order of samples and all noise are functions of (seed, step), so ``step`` is the data cursor and the
    state of every random generator at once.
    """

    step: int  # updates done
    identity: Mapping[str, Any]  # train and model config, data: what must be the same to resume
    tensors: Mapping[str, Tensor]
    files: Mapping[str, str]  # small text files the run depends on (normalization, tokenizer)


def save_state(folder: Path, state: TrainerState) -> None:
    """Replace the folder; the old state stays until the new one is complete."""
    progress = {"step": state.step, "identity": state.identity, "files": sorted(state.files)}
    write_folder(
        folder,
        {
            TENSORS: tensors_to_bytes(state.tensors),
            PROGRESS: (json.dumps(progress, indent=2) + "\n").encode(),
            **{name: text.encode() for name, text in state.files.items()},
        },
    )


def load_state(folder: Path) -> TrainerState | None:
    """The saved state, or None where nothing was saved; FoundryError when it is damaged."""
    settle_folder(folder)
    if not folder.exists():
        return None
    path = folder / PROGRESS
    try:
        progress = json.loads(read_text(path))
        step, identity, names = int(progress["step"]), progress["identity"], list(progress["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise FoundryError(f"{path} is damaged ({error!r}); delete {folder.parent} to train anew") from error
    files = {name: read_text(folder / name) for name in names}
    return TrainerState(step, identity, read_tensors(folder / TENSORS), files)


def check_identity(saved: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    """FoundryError naming the first key in which a run in ``out`` differs from the one asked for."""
    for section in sorted({*saved, *wanted}):
        old, new = dict(saved.get(section, {})), dict(wanted.get(section, {}))
        for key in sorted({*old, *new}):
            if section == "train" and key in HARMLESS:
                continue
            if old.get(key) != new.get(key):
                raise FoundryError(
                    f"{out} holds a run with {section}.{key}={old.get(key)}, now it is {new.get(key)}; "
                    "give another folder (experiment=NAME), or delete this one to train anew"
                )


def check_state_tensors(state: TrainerState, expected: Mapping[str, Tensor], folder: Path) -> None:
    """FoundryError naming tensors that the state lacks or has too many."""
    check_tensors(state.tensors, expected, str(folder / TENSORS))
