"""Training by several processes that torchrun started: DDP, or FSDP2 where a model's weights are sharded too.

Every process takes its rows of every batch, and the losses of the parts are put together with the weight
each has in the whole batch's mean, so the loss curve is that of one process up to rounding. Rank 0 alone
validates, logs and writes the model's folder. gloo on a CPU, NCCL on GPUs (one process each).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.vla_policy import pick_device
from foundry_bench.training.recompute import repeated_blocks
from foundry_bench.training.shards import local
from foundry_bench.training.stage import Batch, Rows, Stage

PATIENCE = timedelta(hours=2)  # others may wait for rank 0's validation, or for its demonstrations
_T = TypeVar("_T")


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them; by default it is alone."""

    device: torch.device
    parallel: str = "none"
    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process validates, logs and saves."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether weights and moments are spread over the processes."""
        return self.parallel == "fsdp"

    def rows(self, total: int) -> Rows:
        """This process' share of a batch."""
        return Rows(0, total, total).divide(self.size)[self.rank]

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all processes (all must call, with as many values)."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process (all must call)."""
        return self.sum([float(flag)])[0] > 0

    def wait(self) -> None:
        """Until all processes are here."""
        self.sum([0.0])

    def first(self, work: Callable[[], _T]) -> _T:
        """Do it in rank 0, then in the others: what it puts in order on disk, they find so."""
        result = work() if self.writes else None
        self.wait()
        return result if self.writes else work()  # type: ignore[return-value]

    def share(self, value: Any) -> Any:
        """Rank 0's value, a plain one, in all processes."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


@contextmanager
def joined(parallel: str, device: str = "auto") -> Iterator[World]:
    """The world of this process, as torchrun's environment says; left when the block is left.

    Args:
        parallel: ``train.parallel``: none, ddp or fsdp.
        device: ``auto`` takes the GPU of the process' local rank where there are any.

    Raises:
        FoundryError: several processes without ``train.parallel``, or that without torchrun.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if parallel == "none":
        if size > 1:
            raise FoundryError(
                f"train.parallel=none, but torchrun started {size} processes; use train.parallel=ddp or fsdp"
            )
        yield World(pick_device(device))
        return
    if "RANK" not in os.environ:
        raise FoundryError(
            f"train.parallel={parallel} wants processes that torchrun starts: "
            "torchrun --nproc-per-node=2 -m foundry_bench train ..."
        )
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    picked = pick_device(device)
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
    world = World(picked, parallel, rank, size)
    if torch.distributed.is_initialized():  # by an outer block
        yield world
        return
    backend = "cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield world
    finally:
        torch.distributed.destroy_process_group()


class StageLoss(nn.Module):
    """A stage's loss as the forward pass of a module, which is what both wrappers hook into."""

    def __init__(self, model: nn.Module, loss: Callable[[Batch, torch.Generator], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch.

        Raises:
            FoundryError: under fsdp, a block's weights are used otherwise than by calling the block.
        """
        try:
            return self._loss(batch, generator)
        except RuntimeError as error:
            if "mixed torch.Tensor and DTensor" not in str(error):
                raise
            raise FoundryError(
                "train.parallel=fsdp cannot train this model: it uses weights of a block that is not being "
                "called; use train.parallel=ddp, or say so in the block's class (other_forwards or "
                "sharded_with_the_rest, see foundry_bench/training/distributed.py)"
            ) from error


def wrapped_loss(
    stage: Stage, loss: Callable[[Batch, torch.Generator], Tensor], world: World, precision: str
) -> Callable[[Batch, torch.Generator], Tensor]:
    """The stage's loss such that gradients are averaged over the processes.

    With ``fsdp`` the parameters of the stage's model are sharded in place, block by block.
    """
    if world.parallel == "none":
        return loss
    root = StageLoss(stage.model, loss)
    if world.parallel == "ddp":
        if not any(parameter.requires_grad for parameter in root.parameters()):
            raise FoundryError("train.freeze leaves nothing to train; freeze fewer parts")
        # A mixture's step uses only the parameters of its source.
        return torch.nn.parallel.DistributedDataParallel(root, find_unused_parameters=True)
    _shard(root, world, precision)
    return root


def _shard(root: StageLoss, world: World, precision: str) -> None:
    """Shard block by block, so that one block's weights are whole at a time, and what is left with the root.

    A block's class may have ``other_forwards``, names of methods that use its weights and are never called
    within its forward pass; or ``sharded_with_the_rest = True``, where weights are used in any other way.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    for parameter in root.parameters():  # FSDP2 takes no other layout, channels-last kernels among them
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # autocast does, and a loss keeps its fp32 targets
    )
    for block in repeated_blocks(root.model):
        if getattr(block, "sharded_with_the_rest", False):
            continue
        fully_shard(block, mesh=mesh, mp_policy=policy)
        for name in getattr(block, "other_forwards", ()):
            register_fsdp_forward_method(block, name)
    fully_shard(root, mesh=mesh, mp_policy=policy)


def without_sync(loss: Any, skip: bool) -> AbstractContextManager[object]:
    """Leave out DDP's averaging in all but the last part of a batch: it is the sum that counts."""
    if skip and isinstance(loss, torch.nn.parallel.DistributedDataParallel):
        return loss.no_sync()
    return nullcontext()


def clip_gradients(parameters: list[nn.Parameter], limit: float, world: World) -> float:
    """Scale gradients down to a joint norm of at most ``limit``; the norm before."""
    if not world.sharded:
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True))
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    squares = [float(torch.stack(torch._foreach_norm(gradients)).square().sum())] if gradients else [0.0]
    norm = math.sqrt(world.sum(squares)[0])
    torch._foreach_mul_(gradients, min(1.0, limit / (norm + 1e-6)))
    return norm
