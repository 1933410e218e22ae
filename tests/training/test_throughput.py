"""What the log says of speed: operations that were really counted, a peak that was really measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundry_bench.training.loop import run
from foundry_bench.training.meter import Meter, Update
from foundry_bench.training.throughput import count_flops, matmul_peak
from foundry_bench.training.trainer import Trainer
from foundry_bench.training.vla_stage import VLAStage
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

CPU = torch.device("cpu")


def test_a_linear_layer_takes_what_its_shapes_say() -> None:
    layer = nn.Linear(40, 30, bias=False)
    x = torch.randn(20, 40, requires_grad=True)
    once = 2 * 20 * 40 * 30
    assert count_flops(layer, lambda: layer(x)) == once
    assert count_flops(layer, lambda: layer(x).sum().backward()) == 3 * once


@pytest.mark.parametrize("causal", [False, True])
def test_attention_counts_on_a_cpu_too(causal: bool) -> None:
    q, k, v = (torch.randn(2, 4, tokens, 16, requires_grad=True) for tokens in (12, 12, 12))
    both = 2 * 2 * 2 * 4 * 12 * 12 * 16
    layer = nn.Identity()

    def step() -> None:
        F.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward()

    assert count_flops(layer, step) == 3 * both


def test_recomputing_does_not_count(tmp_path: Path) -> None:
    counted = []
    for recompute in (False, True):
        config = replace(TINY_TRAIN, checkpoint_activations=recompute)
        stage = VLAStage(config, TINY, ToyDataset())  # type: ignore[arg-type]
        trainer = Trainer(stage, config, tmp_path, CPU)
        batch = stage.batch(0)
        counted.append(count_flops(trainer.model, lambda t=trainer, b=batch: t.backward(t.forward(b))))  # type: ignore[misc]
    assert counted[0] == counted[1] > 1e7


def test_counting_leaves_buffers_and_chance_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    count_flops(model, lambda: model(torch.randn(8, 4)).sum().backward())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_peak_is_measured_once_and_is_a_peak() -> None:
    peak = matmul_peak(CPU)
    assert matmul_peak(CPU) == peak > 1e9


def test_a_meter_gives_rates_and_shares() -> None:
    meter = Meter(batch_size=8, tokens_per_sample=10, flops_per_step=1e6, peak=1e9)
    meter.add(Update(2.0, 1.0, {"forward": 0.01, "backward": 0.02, "optimiser": 0.03}), 0.5, "text")
    meter.add(Update(4.0, 3.0), 0.25, "robot")
    values = meter.read(0.1)
    assert (values["loss"], values["gradient_norm"], values["data_wait_s"]) == (3.0, 2.0, 0.75)
    assert (values["loss/text"], values["loss/robot"]) == (2.0, 4.0)
    assert (values["forward_ms"], values["backward_ms"], values["optimiser_ms"]) == (10.0, 20.0, 30.0)
    assert values["tokens_per_s"] == pytest.approx(10 * values["samples_per_s"], rel=0.01)
    per_step = values["samples_per_s"] / 8
    assert values["mfu"] == pytest.approx(per_step * 1e6 / 1e9, rel=0.01, abs=1e-4)


def test_the_log_has_them(tmp_path: Path) -> None:
    config = replace(TINY_TRAIN, samples=64, log_every=32)
    stage = VLAStage(config, TINY, ToyDataset())  # type: ignore[arg-type]
    stage.tokens_per_sample = 29  # type: ignore[attr-defined]
    run(stage, config, tmp_path, None, device="cpu", progress=False)
    for line in map(json.loads, (tmp_path / "train.jsonl").read_text().splitlines()):
        assert line["tokens_per_s"] == pytest.approx(29 * line["samples_per_s"], rel=0.01)
        assert 0 < line["mfu"] < 1.5
        assert min(line["forward_ms"], line["backward_ms"], line["optimiser_ms"]) > 0
