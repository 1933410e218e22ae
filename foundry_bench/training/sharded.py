"""What a sharded run needs beside the usual: an average of shards, and a state that all processes write.

The state is written through torch.distributed.checkpoint into safetensors files, one for each process, whose
headers say which part of which tensor they hold. So it is read by any number of processes, sharded or not,
and what one unsharded process wrote is read by sharded ones. No pickle is written or read.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.storage import folder_replaced, settle_folder
from foundry_bench.training.distributed import World
from foundry_bench.training.optimizer import average_decay
from foundry_bench.training.shards import local, whole


class ShardedAverage:
    """MovingAverage where each process holds its shards of the average, and rank 0 a model to gather it in.

    Args:
        model: already sharded.
        template: an unsharded copy of it, made before; kept on the CPU in the process that writes.
    """

    def __init__(self, model: nn.Module, decay: float, template: nn.Module, writes: bool) -> None:
        self.decay = decay
        self._source = model
        self.shared = frozenset(name for name, each in model.named_parameters() if not each.requires_grad)
        self._averaged = {
            name: each.detach() if name in self.shared else each.detach().clone()
            for name, each in model.named_parameters()
        }
        self._pairs: tuple[list[Tensor], list[Tensor]] = (
            [local(each) for name, each in self._averaged.items() if name not in self.shared],
            [local(each) for each in model.parameters() if each.requires_grad],
        )
        self._template = copy.deepcopy(template).cpu().requires_grad_(False) if writes else None

    def update(self, step: int) -> None:
        """See MovingAverage.update."""
        torch._foreach_lerp_(*self._pairs, 1 - average_decay(self.decay, step))

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights, sharded, and the buffers, by name; what is not trained is not among them."""
        every = {**self._source.state_dict(), **self._averaged}
        return {name: each for name, each in every.items() if name not in self.shared}

    def gathered(self) -> nn.Module | None:
        """The averaged model in the process that writes, None in the others (all must call)."""
        places = dict(self._template.named_parameters()) if self._template is not None else {}
        with torch.no_grad():
            for name, shard in self._averaged.items():
                tensor = whole(shard)
                if places:
                    places[name].copy_(tensor)
            if self._template is not None:
                for mine, theirs in zip(self._template.buffers(), self._source.buffers(), strict=True):
                    mine.copy_(theirs)
        return self._template


def save_sharded(
    folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, bytes], world: World
) -> None:
    """Replace the folder: every process writes its shards, rank 0 the files (all must call).

    Raises:
        FoundryError: a process could not write; the old folder stays as it was.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with folder_replaced(folder, world.writes, world.wait) as new:
        try:
            save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(new), save_distributed=True))
        except CheckpointException as error:
            reasons = [wrapped[0] for wrapped in error.failures.values()]
            raise OSError(str(reasons[0]) if reasons else "unknown reason") from error
        if world.writes:
            for name, content in files.items():
                (new / name).write_bytes(content)


def described(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a state folder, without its values (on the meta device)."""
    from safetensors import SafetensorError
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        found: Mapping[str, Any] = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise FoundryError(f"{folder} is damaged ({error}); delete {folder.parent} to train anew") from error
    return {
        name: torch.empty(each.size, dtype=each.properties.dtype, device="meta")
        for name, each in found.items()
    }


def load_into(tensors: dict[str, Tensor], folder: Path, alone: bool = False) -> None:
    """Read values into tensors, sharded or whole, in place (all processes must call, or be ``alone``)."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # being alone is meant
            load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise FoundryError(f"{folder} is damaged ({reason}); delete {folder.parent} to train anew") from error


def read_sharded(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a state folder that several processes wrote, put together in this one."""
    settle_folder(folder)
    tensors = {name: torch.empty_like(each, device="cpu") for name, each in described(folder).items()}
    load_into(tensors, folder, alone=True)
    return tensors
