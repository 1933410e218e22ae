"""Starting from the weights of another stage's checkpoint: taken by name, never from a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.checkpoint_files import TOKENIZER, WEIGHTS
from foundry_bench.policies.storage import read_tensors, read_text


@dataclass(frozen=True)
class WarmStart:
    """What was taken from a checkpoint, by the model's names of tensors."""

    folder: Path
    part: str  # the part of the model that the checkpoint is; empty: the whole
    taken: list[str]
    new: list[str]  # tensors of the model that stay as they were initialised
    unused: list[str]  # tensors of the checkpoint that the model has no place for
    reshaped: list[str]  # of the new: those the checkpoint has in another shape

    def __str__(self) -> str:
        place = f" as '{self.part}'" if self.part else ""
        text = f"started from {self.folder}{place}: {len(self.taken)} tensors taken, {_named(self.new)} new"
        if self.reshaped:
            text += f" ({_named(self.reshaped)} of another shape there)"
        return text + (f", {_named(self.unused)} of the checkpoint not used" if self.unused else "")


def start_from(folder: Path, model: nn.Module, files: Mapping[str, str], partial: bool = False) -> WarmStart:
    """Put the weights of a checkpoint into a model, in place.

    Names are compared as they are and, since a language model is a part of a VLA, with the name of each child
    of the model before them; the place where most of them fit is taken.

    Args:
        folder: a checkpoint folder, of any stage.
        files: the stage's own small files; its tokenizer must have the checkpoint's vocabulary.
        partial: leave tensors of another shape as they are, instead of refusing them.

    Raises:
        FoundryError: nothing fits, a shape differs, or the vocabularies do.
    """
    found = read_tensors(folder / WEIGHTS)
    own = model.state_dict()
    part = _best_part(found, own, [name for name, _ in model.named_children()])
    placed = {(f"{part}.{name}" if part else name): tensor for name, tensor in found.items()}
    common = [name for name in own if name in placed]
    if not common:
        raise FoundryError(
            f"train.init_from={folder}: none of its tensors is in the model, which has no "
            f"{_named(sorted(found))}"
        )
    reshaped = [name for name in common if own[name].shape != placed[name].shape]
    if reshaped and not partial:
        shown = "; ".join(
            f"{name} is {list(placed[name].shape)} there and {list(own[name].shape)} here"
            for name in reshaped[:3]
        )
        raise FoundryError(
            f"train.init_from={folder} does not fit: {shown}{_more(reshaped)}; give the model that "
            "checkpoint's sizes, or leave such tensors out with train.init_partial=true"
        )
    _check_vocabulary(folder, files)
    taken = [name for name in common if name not in set(reshaped)]
    with torch.no_grad():
        for name in taken:
            own[name].copy_(placed[name])
    unused = sorted(set(placed) - set(own))
    new = [name for name in own if name not in set(taken)]
    return WarmStart(folder, part, taken, new, unused, reshaped)


def tokenizer_text(folder: Path) -> str | None:
    """The tokenizer.json of a checkpoint; None where it has none."""
    path = folder / TOKENIZER
    return read_text(path) if path.exists() else None


def _best_part(found: Mapping[str, Tensor], own: Mapping[str, Tensor], children: list[str]) -> str:
    def fitting(part: str) -> int:
        return sum((f"{part}.{name}" if part else name) in own for name in found)

    return max(["", *children], key=fitting)


def _check_vocabulary(folder: Path, files: Mapping[str, str]) -> None:
    """FoundryError where both have a tokenizer and the same text would become other numbers."""
    theirs, ours = tokenizer_text(folder), files.get(TOKENIZER)
    if theirs is None or ours is None:
        return
    there, here = _vocabulary(theirs, str(folder / TOKENIZER)), _vocabulary(ours, "the tokenizer in use")
    if there != here:
        raise FoundryError(
            f"{folder / TOKENIZER} has another vocabulary ({len(there)} tokens) than the tokenizer in use "
            f"({len(here)}): the embeddings would be of other words; use the checkpoint's tokenizer"
        )


def _vocabulary(text: str, where: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(text)
        vocabulary = {**parsed["model"]["vocab"]}
        vocabulary.update({entry["content"]: entry["id"] for entry in parsed.get("added_tokens", [])})
        return vocabulary
    except (ValueError, KeyError, TypeError) as error:
        raise FoundryError(f"{where} is not a tokenizer ({error!r}); restore the file") from error


def _named(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else "0"


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 3} more)" if len(names) > 3 else ""
