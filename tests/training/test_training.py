"""The policy learns, follows the instruction, and the parts around the loop do what they say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.errors import FoundryError
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.vla import VLA
from foundry_bench.training.augment import shift_images
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.loop import train
from foundry_bench.training.muon import Muon, orthogonalise
from foundry_bench.training.optimizer import MovingAverage, Optimizer
from foundry_bench.training.order import SampleOrder, hold_out
from foundry_bench.training.prefetch import Prefetcher
from foundry_bench.training.schedule import learning_rate
from foundry_bench.training.vla_stage import VLAStage, split_frames
from tests.training.toy import INSTRUCTIONS, TINY, TINY_TRAIN, ToyDataset


@pytest.mark.parametrize("head", ["flow", "regression"])
def test_it_learns_to_go_where_the_instruction_says(tmp_path: Path, head: str) -> None:
    config = replace(
        TINY_TRAIN,
        samples=5000,
        batch_size=32,
        learning_rate=3e-3,
        shift=0,
        save_every=10_000,
        validation_episodes=4,
    )
    checkpoint = train(config, replace(TINY, head=head), ToyDataset(200), tmp_path, "cpu", progress=False)
    unseen = ToyDataset(20, seed=1)
    batch = unseen.batch(np.arange(len(unseen)), TINY.horizon)
    policy = load_policy(checkpoint, device="cpu")
    observations = {**batch["images"], "state": batch["state"], "instruction": batch["instruction"]}

    def error() -> float:
        chunks = policy.predict(observations, range(len(unseen)))
        return float(np.abs(chunks - batch["actions"])[..., :2].mean())

    right = error()
    observations["instruction"] = [INSTRUCTIONS[1 - named] for named in unseen.named]
    wrong = error()
    assert right < 0.1  # of 0.38 for standing still
    assert wrong > 4 * right
    events = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "validation"
    assert events[-1]["action_error"] < 0.15
    assert events[-1]["gripper_accuracy"] > 0.9
    assert list((tmp_path / "tensorboard").iterdir())


def test_every_epoch_is_another_permutation_of_the_frames() -> None:
    frames = np.arange(100, 150)
    order = SampleOrder(frames, batch_size=8, seed=3)
    stream = np.concatenate([order.batch(step) for step in range(25)])
    epochs = stream.reshape(4, 50)
    assert all(sorted(epoch) == frames.tolist() for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()
    assert (SampleOrder(frames, 8, 4).batch(0) != stream[:8]).any()


def test_a_batch_depends_on_its_step_alone() -> None:
    first = VLAStage(TINY_TRAIN, TINY, ToyDataset())  # type: ignore[arg-type]
    again = VLAStage(TINY_TRAIN, TINY, ToyDataset())  # type: ignore[arg-type]
    for step in range(7):
        first.batch(step)
    ours, theirs = first.batch(7), again.batch(7)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(first.batch(8)["images"], ours["images"])


def test_a_batch_is_normalised_and_tokens_are_of_distinct_instructions() -> None:
    batch = VLAStage(replace(TINY_TRAIN, batch_size=64), TINY, ToyDataset()).batch(0)  # type: ignore[arg-type]
    assert batch["tokens"].shape == (2, TINY.text_tokens)
    assert batch["images"].shape == (64, 1, 32, 32, 3)
    assert batch["images"].dtype == torch.uint8
    assert batch["actions"].abs().max() < 1.3
    assert 0.2 < batch["state"].std() < 1.0
    assert set(batch["inverse"].tolist()) == {0, 1}


def test_shifting_is_what_padding_and_cropping_gives() -> None:
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    shifts = chance.integers(-4, 5, (40, 2))
    shifts[:5] = [[0, 0], [4, 4], [-4, -4], [4, -4], [0, -4]]
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    expected = [
        image[4 + down : 16 + down, 4 + right : 16 + right]
        for image, (down, right) in zip(padded, shifts, strict=True)
    ]
    np.testing.assert_array_equal(shift_images(images, shifts), np.stack(expected))


def test_the_learning_rate_rises_then_falls_to_almost_nothing() -> None:
    config = TrainConfig(samples=32_000, warmup=3200, learning_rate=1e-3)
    rates = [learning_rate(step, config) for step in range(config.steps)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-3)
    assert int(np.argmax(rates)) in (99, 100)
    assert rates[-1] < 1.1e-5
    assert all(a >= b for a, b in pairwise(rates[100:]))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_matrices_decay(optimizer: str) -> None:
    model = VLA(TINY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, others, *inner = Optimizer(model, replace(TINY_TRAIN, optimizer=optimizer)).param_groups
    assert sum(len(group["params"]) for group in (decayed, others, *inner)) == len(names)
    assert all(group["weight_decay"] > 0 for group in (decayed, *inner))
    assert others["weight_decay"] == 0
    kept = {names[id(parameter)] for parameter in others["params"]}
    assert {"language.embedding.weight", "stems.0.position", "expert.step", "state.bias"} <= kept
    assert not {name for name in kept if name.endswith("qkv.weight")}


def test_muon_takes_the_inner_matrices() -> None:
    model = VLA(TINY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = Optimizer(model, replace(TINY_TRAIN, optimizer="muon"))
    inner = {names[id(parameter)] for parameter in optimizer.param_groups[2]["params"]}
    assert {"language.blocks.0.qkv.weight", "stems.0.blocks.0.conv1.weight"} <= inner
    outermost = ("patch.weight", "state.weight", "input.weight", "output.weight", "film.weight")
    assert not {name for name in inner if name.endswith(outermost)}


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), scale=st.floats(1e-4, 1e4))
def test_orthogonalised_matrices_keep_their_directions(rows: int, columns: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(rows * 41 + columns)
    one, other = (torch.linalg.qr(torch.randn(n, n, generator=generator))[0] for n in (rows, columns))
    values = torch.linspace(1.0, 0.1, min(rows, columns))
    matrix = one[:, : len(values)] @ torch.diag(values) @ other[: len(values)] * scale
    result = orthogonalise(matrix[None])[0]
    seen = torch.diag(one[:, : len(values)].T @ result @ other[: len(values)].T)
    assert ((seen > 0.6) & (seen < 1.3)).all()


def test_one_update_of_muon_is_of_the_size_of_adams() -> None:
    weight = torch.nn.Parameter(torch.zeros(48, 96))
    weight.grad = torch.randn(48, 96, generator=torch.Generator().manual_seed(0)) * 1e-3
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.15)
    assert (weight * weight.grad).sum() < 0


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(FoundryError, match=r"train\.optimizer=sgd"):
        TrainConfig(optimizer="sgd")


def test_the_average_follows_fast_at_first_and_slowly_later() -> None:
    model = torch.nn.Linear(1, 1)
    average = MovingAverage(model, 0.9)
    torch.nn.init.constant_(average.model.weight, 0.0)
    torch.nn.init.constant_(model.weight, 1.0)
    average.update(0)
    assert average.model.weight.item() == pytest.approx(0.9)
    torch.nn.init.constant_(average.model.weight, 0.0)
    average.update(10_000)
    assert average.model.weight.item() == pytest.approx(0.1)


def test_held_out_episodes_are_not_trained_on() -> None:
    dataset = ToyDataset()
    train_frames, held = split_frames(dataset, replace(TINY_TRAIN, validation_episodes=5))  # type: ignore[arg-type]
    assert len(held) == 5 * 12
    assert not set(held) & set(train_frames)
    assert len(train_frames) + len(held) == len(dataset)
    assert np.diff(hold_out(60, 5, 0)).min() > 0
    with pytest.raises(FoundryError, match="leaves nothing of 60 demonstrations"):
        split_frames(dataset, replace(TINY_TRAIN, validation_episodes=60))  # type: ignore[arg-type]


def test_prefetching_keeps_order_and_hands_on_errors() -> None:
    def make(step: int) -> int:
        if step == 5:
            raise FoundryError("broken frame")
        return step * step

    with Prefetcher(make, 2, 10, depth=2) as batches:
        assert [batches.next() for _ in range(3)] == [4, 9, 16]
        with pytest.raises(FoundryError, match="broken frame"):
            batches.next()
    with Prefetcher(make, 6, 100, depth=1) as batches:
        batches.next()  # leaving with batches to spare must not hang


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cameras": ("wrist",)}, "model.cameras has 'wrist'"),
        ({"image_size": 48}, "model.image_size=48, but the demonstrations in toy have 32"),
        ({"state_dim": 8}, "model.state_dim=8"),
        ({"action_dim": 7}, "model.action_dim=7"),
    ],
)
def test_demonstrations_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(FoundryError, match=words):
        train(TINY_TRAIN, replace(TINY, **change), ToyDataset(), tmp_path, "cpu", progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 0}, "train.samples=0 must be at least 1"),
        ({"learning_rate": 0.0}, "train.learning_rate=0.0 must be above 0"),
        ({"ema_decay": 1.0}, r"train.ema_decay=1.0 must be in \[0, 1\)"),
        ({"learning_rate": "fast"}, "train.learning_rate='fast' must be of type float"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        TrainConfig.from_dict(change)


def test_the_same_seed_gives_the_same_weights_and_global_chance_is_left_alone(tmp_path: Path) -> None:
    config = replace(TINY_TRAIN, samples=64)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train(config, TINY, ToyDataset(), tmp_path / "a", "cpu", progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = train(config, TINY, ToyDataset(), tmp_path / "b", "cpu", progress=False)
    three = train(replace(config, seed=1), TINY, ToyDataset(), tmp_path / "c", "cpu", progress=False)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (one, two, three)]
    assert weights[0] == weights[1] != weights[2]
    assert math.isfinite(sum(weights[0][-100:]))
