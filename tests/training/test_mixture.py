"""Co-training: what is drawn is a pure function of (seed, step), and every source's loss falls."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.losses import next_token_loss
from foundry_bench.policies.storage import read_tensors
from foundry_bench.training.mixture import MixedStage, SourceOrder, StageSource
from foundry_bench.training.trainer import Trainer
from tests.training.sources import ColourText, mixed_stage, train_mixed
from tests.training.toy import TINY_TRAIN

CONFIG = replace(TINY_TRAIN, samples=1600, log_every=16, validate_every=800, save_every=10_000)


def test_draws_follow_weights_and_count_batches_whatever_is_asked_first() -> None:
    order = SourceOrder([3.0, 1.0], seed=5)
    backwards = SourceOrder([3.0, 1.0], seed=5)
    ahead = {step: backwards.draw(step) for step in reversed(range(3000))}
    seen: Counter[int] = Counter()
    for step in range(3000):
        source, number = order.draw(step)
        assert ahead[step] == (source, number)
        assert number == seen[source]  # every batch of a source once, in order
        seen[source] += 1
    assert seen[0] / 3000 == pytest.approx(0.75, abs=0.03)
    assert [SourceOrder([3.0, 1.0], seed=6).draw(step) for step in range(50)] != [ahead[s] for s in range(50)]


def test_both_losses_fall_and_are_logged_apart(tmp_path: Path) -> None:
    train_mixed(CONFIG, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    measures = [line for line in lines if line["event"] == "validation"]
    assert measures[-1]["text/loss"] < 0.5 * measures[0]["text/loss"]
    steps = [line for line in lines if line["event"] == "train"]
    robot = [line["loss/robot"] for line in steps if "loss/robot" in line]
    text = [line["loss/text"] for line in steps if "loss/text" in line]
    assert len(robot) + len(text) == len(steps) == 100  # one step a line, one source a step
    assert 50 < len(robot) < 85
    assert sum(robot[-10:]) < sum(robot[:10])
    assert sum(text[-5:]) < 0.3 * sum(text[:5])


def test_a_step_of_text_leaves_the_action_expert_alone(tmp_path: Path) -> None:
    stage = mixed_stage(CONFIG)
    trainer = Trainer(stage, CONFIG, tmp_path, torch.device("cpu"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    text = next(step for step in range(50) if stage.source_name(step) == "text")
    trainer.step = text
    trainer.update(stage.batch(text))
    changed = {
        name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("language.") for name in changed)


def test_one_source_of_weight_one_is_the_stage_itself(tmp_path: Path) -> None:
    from foundry_bench.training.loop import run, train
    from foundry_bench.training.vla_stage import VLAStage
    from tests.training.toy import TINY, ToyDataset

    config = replace(TINY_TRAIN, samples=128)
    train(config, TINY, ToyDataset(), tmp_path / "plain", device="cpu", progress=False)
    vla = VLAStage(config, TINY, ToyDataset())  # type: ignore[arg-type]
    mixed = MixedStage(vla, [StageSource("robot", vla)], {"robot": 1.0}, seed=0)
    run(mixed, config, tmp_path / "mixed", None, device="cpu", progress=False)
    ours, theirs = (
        read_tensors(tmp_path / out / "checkpoint" / "model.safetensors") for out in ("plain", "mixed")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"robot": 1.0}, "source 'text' of the mixture has weight none"),
        ({"robot": 1.0, "text": 0.0}, "source 'text' of the mixture has weight 0.0"),
        ({"robot": 1.0, "text": 1.0, "txt": 1.0}, "no source 'txt': did you mean 'text'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, float], words: str) -> None:
    stage = mixed_stage(CONFIG)
    with pytest.raises(FoundryError, match=words):
        MixedStage(stage.base, stage.sources, weights, seed=0)


def test_a_run_of_another_mixture_is_refused(tmp_path: Path) -> None:
    from foundry_bench.training.loop import run
    from foundry_bench.training.state import load_state

    config = replace(CONFIG, samples=64)
    train_mixed(config, tmp_path)
    stage = mixed_stage(config)
    other = MixedStage(stage.base, stage.sources, {"robot": 5.0, "text": 1.0}, seed=0)
    with pytest.raises(FoundryError, match=r"mixture.weights.robot=2.0, now it is 5.0"):
        run(other, config, tmp_path, load_state(tmp_path / "state"), device="cpu", progress=False)


def test_what_a_batch_was_made_of_is_named() -> None:
    stage = mixed_stage(CONFIG)
    said = {stage.describe(step) for step in range(6)}
    assert any(text.startswith("source 'robot', frames ") for text in said)
    assert any(text == "source 'text', batch 0" for text in said)


def test_the_z_loss_is_the_squared_normaliser() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator)
    targets = torch.tensor([[0, 1, 2], [3, 4, 0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    plain = next_token_loss(logits, targets, mask)
    kept = torch.nn.functional.cross_entropy(logits[mask], targets[mask])
    assert plain.item() == pytest.approx(kept.item(), rel=1e-6)
    extra = 0.5 * logits[mask].logsumexp(-1).square().mean()
    assert next_token_loss(logits, targets, mask, 0.5).item() == pytest.approx(
        (plain + extra).item(), rel=1e-6
    )


def test_the_text_source_counts_tokens_not_rows() -> None:
    stage = mixed_stage(CONFIG)
    text = stage.sources[1]
    assert isinstance(text, ColourText)
    step = next(step for step in range(50) if stage.source_name(step) == "text")
    batch = stage.batch(step)
    assert stage.weight(batch) == float(batch["text_mask"][:, 1:].sum()) != len(batch["text"])
