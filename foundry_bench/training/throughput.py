"""How much of the machine a step uses: its floating-point operations over what a matrix product reaches.

The model FLOPs utilisation (MFU; Chowdhery et al., "PaLM", arXiv 2204.02311) is taken against a product that
was measured in this process, not against a data sheet: 2048 cubed on a CPU, 8192 cubed on a GPU, in the
precision of the step. Multiplying and adding are two operations. Recomputed activations do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foundry_bench.training.recompute import kept_activations

_SIDE = {"cpu": 2048, "cuda": 8192}
_REPEATS = 4
_aten: Any = torch.ops.aten


@lru_cache(maxsize=8)
def _measured(kind: str, index: int | None, dtype: torch.dtype, threads: int) -> float:
    del threads  # only a part of the key
    device = torch.device(kind) if index is None else torch.device(kind, index)
    side = _SIDE.get(kind, 2048)
    with torch.random.fork_rng(devices=[device] if kind == "cuda" else []):
        a, b = torch.randn(2, side, side, device=device).to(dtype).unbind(0)
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first one warms up
        start = _now(device)
        torch.mm(a, b)
        best = min(best, _now(device) - start)
    return 2 * side**3 / best


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a large matrix product: the best of several, measured once per process."""
    return _measured(device.type, device.index, dtype, torch.get_num_threads())


def count_flops(model: nn.Module, step: Callable[[], object]) -> float:
    """Operations of ``step``, which computes a loss of the model and its gradients.

    The step is really run. Buffers of the model and the global random state are put back afterwards;
    gradients are left where they are. Attention counts twice its forward pass in the backward pass, whichever
    kernel computes it (torch's counter has no formula for the one on a CPU).
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    buffers = [buffer.detach().clone() for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=list(devices)), kept_activations():
            counter = FlopCounterMode(display=False, custom_mapping=_attention_formulas())
            with counter:
                step()
    finally:
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
    return float(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Both products of attention, from the shapes (B, H, S, N), (B, H, P, N) and (B, H, P, M)."""
    rows, heads, queries, size = query
    return 2 * rows * heads * queries * key[-2] * (size + value[-1])


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    return 2 * _attention(query, key, value)


def _attention_formulas() -> dict[Any, Callable[..., int]]:
    forward = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    formulas: dict[Any, Callable[..., int]] = {}
    for name in forward:
        for suffix, formula in (("", _attention), ("_backward", _attention_backward)):
            operator = getattr(_aten, f"_scaled_dot_product_{name}{suffix}", None)
            if operator is not None:
                formulas[operator] = formula
    return formulas


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
