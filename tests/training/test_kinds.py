"""Every kind of policy trains through the one loop, is resumed, and follows the instruction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.architectures import ModelConfig
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.baselines.config import ACTConfig, BCTransformerConfig, DiffusionPolicyConfig
from foundry_bench.policies.build import ACTION_TOKENIZER
from foundry_bench.training.loop import Trainer, train
from foundry_bench.training.vla_stage import VLAStage
from tests.training.toy import INSTRUCTIONS, TINY, TINY_TRAIN, ToyDataset

_BASELINE: dict[str, Any] = {
    key: getattr(TINY, key)
    for key in (
        "image_size", "cameras", "state_dim", "action_dim", "horizon", "vocab_size", "text_tokens", "width",
        "heads", "hidden", "stem_channels",
    )
}  # fmt: skip
KINDS: dict[str, ModelConfig] = {
    "diffusion": replace(TINY, head="diffusion"),
    "bins": replace(TINY, head="tokens", action_vocab=64),
    "dct": replace(TINY, head="tokens", action_tokenizer="dct"),
    "pooled": replace(TINY, conditioning="pooled"),
    "diffusion_policy": DiffusionPolicyConfig(unet_channels=(32, 48), condition_width=48, **_BASELINE),
    "act": ACTConfig(encoder_layers=2, **_BASELINE),
    "bc_transformer": BCTransformerConfig(layers=2, **_BASELINE),
}


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_learns_to_go_where_the_instruction_says(tmp_path: Path, kind: str) -> None:
    samples = 12_000 if kind in ("bins", "dct", "bc_transformer") else 5_000  # choices are learned later
    config = replace(TINY_TRAIN, samples=samples, batch_size=32, shift=0, save_every=10_000)
    checkpoint = train(config, KINDS[kind], ToyDataset(200), tmp_path, "cpu", progress=False)
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
    assert right < 0.15  # of 0.38 for standing still
    assert wrong > 2.5 * right


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in ("checkpoint", "state")
        for path in sorted((out / folder).iterdir())
    }


@pytest.mark.parametrize("kind", ["dct", "diffusion_policy", "act"])
def test_interrupted_and_resumed_is_bit_for_bit_the_same(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foundry_bench.training import loop, vla_stage

    config = replace(TINY_TRAIN, samples=256)
    train(config, KINDS[kind], ToyDataset(), tmp_path / "whole", "cpu", progress=False)
    update = loop.Trainer.update

    def stops(self: loop.Trainer, batch: Any) -> tuple[float, float]:
        if self.step == 11:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainer, "update", stops)
        train(config, KINDS[kind], ToyDataset(), tmp_path / "broken", "cpu", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(vla_stage, "fit_action_tokenizer", None)  # what was fitted is read, not fitted again
        train(config, KINDS[kind], ToyDataset(), tmp_path / "broken", "cpu", progress=False)
    ours, theirs = contents(tmp_path / "broken"), contents(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert ("state/action_tokenizer.json" in ours) == (kind == "dct")
    if kind == "dct":
        assert ours["state/action_tokenizer.json"] == ours["checkpoint/action_tokenizer.json"]
        assert json.loads(ours["state/action_tokenizer.json"])["kind"] == "dct"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(tmp_path: Path, kind: str) -> None:
    """Rows count by their real actions, and where sequences differ in length by their tokens."""
    found = []
    for accumulate in (1, 3):
        config = replace(TINY_TRAIN, accumulate=accumulate)
        stage = VLAStage(config, KINDS[kind], ToyDataset())  # type: ignore[arg-type]
        trainer = Trainer(stage, config, tmp_path, torch.device("cpu"))
        batch = stage.batch(4)
        weights = {part.weight for part in trainer.parts(batch)}
        assert len(weights) == accumulate  # none weighs as much as another
        trainer.clear()
        total = 0.0
        for part in trainer.parts(batch):
            loss = trainer.forward(part.batch, part.rows) * part.weight
            trainer.backward(loss)
            total += loss.item()
        found.append((total, {name: each.grad for name, each in trainer.model.named_parameters()}))
    (whole, gradients), (divided, parts) = found
    assert divided == pytest.approx(whole, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=5e-6, msg=name)


@pytest.mark.parametrize("kind", ["bins", "dct", "diffusion"])
def test_compiled_it_learns_the_same(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a real compiler, whose minute a test does not have."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *x, **y: compiled(*x, **y, backend="eager"))
    torch._dynamo.reset()
    losses = []
    for wanted in (False, True):
        config = replace(TINY_TRAIN, compile=wanted)
        stage = VLAStage(config, KINDS[kind], ToyDataset())  # type: ignore[arg-type]
        trainer = Trainer(stage, config, tmp_path, torch.device("cpu"))
        losses.append([trainer.update(stage.batch(step)).loss for step in range(12)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] < 20
    assert not [said for said in torch._dynamo.utils.counters["graph_break"] if "numpy" in said]


def test_a_run_that_starts_from_action_tokens_keeps_what_they_mean(tmp_path: Path) -> None:
    config, model = replace(TINY_TRAIN, samples=16), KINDS["dct"]
    first = train(config, model, ToyDataset(), tmp_path / "first", "cpu", progress=False)
    other = ToyDataset(seed=5)
    own = VLAStage(config, model, other)  # type: ignore[arg-type]
    text = (first / ACTION_TOKENIZER).read_text()
    assert own.files()[ACTION_TOKENIZER] != text
    goes_on = replace(config, init_from=str(first))
    then = train(goes_on, model, other, tmp_path / "then", "cpu", progress=False)
    assert (then / ACTION_TOKENIZER).read_text() == text
    words = r"first/checkpoint/action_tokenizer.json has action_tokenizer=dct"
    with pytest.raises(FoundryError, match=words):
        VLAStage(goes_on, replace(model, action_tokenizer="bins"), other)  # type: ignore[arg-type, type-var]


@pytest.mark.parametrize(("first", "then"), [("act", "bc_transformer"), ("pooled", "dct"), ("dct", "pooled")])
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, first: str, then: str) -> None:
    config = replace(TINY_TRAIN, samples=16)
    train(config, KINDS[first], ToyDataset(), tmp_path, "cpu", progress=False)
    with pytest.raises(FoundryError, match=r"holds a run with model\.\w+=.*, now it is"):
        train(config, KINDS[then], ToyDataset(), tmp_path, "cpu", progress=False)


def test_validation_works_with_tokens(tmp_path: Path) -> None:
    config = replace(TINY_TRAIN, samples=64, validation_episodes=4)
    train(config, KINDS["bins"], ToyDataset(), tmp_path, "cpu", progress=False)
    last = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "validation"
    assert 0 < last["action_error"] < 2
