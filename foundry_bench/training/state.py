"""Trainer state on disk: weights, moving average, moments and where the run stands. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.storage import (
    check_tensors,
    read_tensors,
    read_text,
    settle_folder,
    tensors_to_bytes,
    write_folder,
)
from foundry_bench.training.config import HARMLESS, TrainConfig
from foundry_bench.training.meter import Unlogged

TENSORS, PROGRESS = "trainer.safetensors", "trainer.json"


@dataclass(frozen=True)
class TrainerState:
    """Everything that resuming needs.

    The order of samples and all noise are functions of (seed, step), so ``step`` is the data cursor and the
    state of every random generator at once.
    """

    step: int  # updates done
    identity: Mapping[str, Any]  # train and model config, data: what must be the same to resume
    tensors: Mapping[str, Tensor]  # empty where they are yet to be read, by each process its part
    files: Mapping[str, str]  # small text files the run depends on (normalization, tokenizer)
    counts: Mapping[str, int] = field(default_factory=dict)  # see Optimizer.counts
    best: float | None = None  # of the measure that train.keep_best names
    unlogged: Sequence[Unlogged] = ()  # steps that the log has yet to take the means of

    def described(self) -> dict[str, bytes]:
        """Everything but the tensors, as small files."""
        progress: dict[str, Any] = {"step": self.step, "identity": self.identity, "files": sorted(self.files)}
        if self.counts:
            progress["counts"] = dict(self.counts)
        if self.best is not None:
            progress["best"] = self.best
        if self.unlogged:
            progress["unlogged"] = [list(step) for step in self.unlogged]
        return {
            PROGRESS: (json.dumps(progress, indent=2) + "\n").encode(),
            **{name: text.encode() for name, text in self.files.items()},
        }


def save_state(folder: Path, state: TrainerState) -> None:
    """Replace the folder; the old state stays until the new one is complete."""
    write_folder(folder, {TENSORS: tensors_to_bytes(state.tensors), **state.described()})


def load_state(folder: Path, tensors: bool = True) -> TrainerState | None:
    """The saved state, or None where nothing was saved; FoundryError when it is damaged.

    Args:
        tensors: read them too (whichever number of processes wrote them), not only where the run stands.
    """
    settle_folder(folder)
    if not folder.exists():
        return None
    path = folder / PROGRESS
    try:
        progress = json.loads(read_text(path))
        step, identity, names = int(progress["step"]), progress["identity"], list(progress["files"])
        counts, best = dict(progress.get("counts", {})), progress.get("best")
        unlogged = [Unlogged(*step) for step in progress.get("unlogged", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise FoundryError(f"{path} is damaged ({error!r}); delete {folder.parent} to train anew") from error
    files = {name: read_text(folder / name) for name in names}
    return TrainerState(step, identity, _read(folder) if tensors else {}, files, counts, best, unlogged)


def put_weights(model: nn.Module, state: TrainerState, folder: Path) -> None:
    """Copy the weights of a saved state into a model, as far as they fit; no process waits for another."""
    own = {f"weights.{name}": each for name, each in model.state_dict().items()}
    if not state.tensors:
        from foundry_bench.training.sharded import described, load_into

        found = described(folder)
        wanted = {
            name: each for name, each in own.items() if name in found and found[name].shape == each.shape
        }
        load_into(wanted, folder, alone=True)
        return
    with torch.no_grad():
        for name, each in own.items():
            value = state.tensors.get(name)
            if value is not None and value.shape == each.shape:
                each.copy_(value)


def _read(folder: Path) -> Mapping[str, Tensor]:
    if not (folder / TENSORS).exists() and any(folder.glob("*.safetensors")):
        from foundry_bench.training.sharded import read_sharded

        return read_sharded(folder)
    return read_tensors(folder / TENSORS)


def check_identity(saved: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    """FoundryError naming the first key in which a run in ``out`` differs from the one asked for.

    A key of ``train``, or of a VLA's ``model``, that a run did not know yet had what is now its default.
    """
    for section in sorted({*saved, *wanted}):
        old, new = dict(saved.get(section, {})), dict(wanted.get(section, {}))
        if section == "train":
            old = {**TrainConfig().to_dict(), **old}
        if section == "model" and new.get("architecture") == VLAConfig.architecture:
            old = {**VLAConfig().to_dict(), **old}
        for key in sorted({*old, *new}):
            if section == "train" and key in HARMLESS:
                continue
            if old.get(key) != new.get(key):
                raise FoundryError(
                    f"{out} holds a run with {section}.{key}={old.get(key)}, now it is {new.get(key)}; "
                    "give another folder (experiment=NAME), or delete this one to train anew"
                )


def check_state_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    """FoundryError naming tensors that the state lacks or has too many."""
    check_tensors(found, expected, str(folder / TENSORS))
