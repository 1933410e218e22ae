"""What the options of a train config do: schedules, rates, freezing, parts of a batch, precision."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.storage import read_tensors
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.loop import train
from foundry_bench.training.optimizer import Optimizer
from foundry_bench.training.recompute import recompute_blocks, repeated_blocks
from foundry_bench.training.schedule import learning_rate
from foundry_bench.training.trainer import Trainer
from foundry_bench.training.vla_stage import VLAStage
from tests.training.sources import mixed_stage
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(tmp_path: Path, **changes: object) -> Trainer:
    config = replace(TINY_TRAIN, **changes)  # type: ignore[arg-type]
    return Trainer(VLAStage(config, TINY, ToyDataset()), config, tmp_path, CPU)  # type: ignore[arg-type]


def gradients(one: Trainer, step: int = 0) -> dict[str, torch.Tensor]:
    """Clipped gradients of the batch of a step."""
    one.step = step
    one.clear()
    for part in one.parts(one.stage.batch(step)):
        loss = one.forward(part.batch, part.rows)
        one.backward(loss if part.rows is None else loss * part.weight)
    one.clip()
    return {name: each.grad.clone() for name, each in one.model.named_parameters() if each.grad is not None}


def trained(one: Trainer, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    losses = [one.update(one.stage.batch(one.step)).loss for _ in range(steps)]
    return losses, {name: value.clone() for name, value in one.model.state_dict().items()}


def test_the_defaults_learn_what_they_always_did(tmp_path: Path) -> None:
    losses, _ = trained(trainer(tmp_path, samples=256), 4)
    assert losses == pytest.approx([1.46147299, 1.75296772, 1.63299167, 1.61351717], rel=1e-5)


def test_wsd_is_stable_and_then_falls_in_a_straight_line() -> None:
    config = TrainConfig(samples=32_000, warmup=3200, learning_rate=1e-3, schedule="wsd", decay_fraction=0.25)
    rates = [learning_rate(step, config) for step in range(config.steps)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[100:750] == [1e-3] * 650
    falls = [a - b for a, b in pairwise(rates[750:])]
    assert falls == pytest.approx([falls[0]] * len(falls), rel=1e-6)
    assert rates[-1] == pytest.approx(1e-5, abs=5e-6)


def test_constant_stays() -> None:
    config = TrainConfig(samples=32_000, warmup=3200, learning_rate=1e-3, schedule="constant")
    assert {learning_rate(step, config) for step in range(100, config.steps)} == {1e-3}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_part_learns_at_its_own_rate(optimizer: str) -> None:
    config = replace(TINY_TRAIN, optimizer=optimizer, rates={"stems": 0.1, "stems.0.patch": 0.5})  # type: ignore[arg-type]
    model = VLAStage(config, TINY, ToyDataset()).model  # type: ignore[arg-type]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    one = Optimizer(model, config)
    one.step(1.0)
    rates = {names[id(p)]: group["lr"] for group in one.param_groups for p in group["params"]}
    assert len(rates) == len(names)
    assert rates["stems.0.patch.weight"] == 0.5
    assert rates["stems.0.patch_norm.weight"] == 0.1
    assert rates["stems.0.blocks.0.conv1.weight"] == 0.1
    assert rates["language.blocks.0.qkv.weight"] == 1.0


def test_a_part_that_is_not_there_is_named() -> None:
    for change in ({"rates": {"steems": 0.1}}, {"freeze": ("steems",)}):
        with pytest.raises(FoundryError, match="no part 'steems': did you mean 'stems"):
            trainer(Path("unused"), **change)


def test_frozen_parts_stay_and_thaw_on_time(tmp_path: Path) -> None:
    for_good = trainer(tmp_path, freeze=("language",))
    before = {name: value.clone() for name, value in for_good.model.state_dict().items()}
    _, after = trained(for_good, 3)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    assert not {name for name in moved if name.startswith("language.")}
    thawing = trainer(tmp_path, freeze=("language",), freeze_until=32)
    _, early = trained(thawing, 2)
    assert torch.equal(early["language.blocks.0.qkv.weight"], before["language.blocks.0.qkv.weight"])
    _, late = trained(thawing, 1)
    assert not torch.equal(late["language.blocks.0.qkv.weight"], before["language.blocks.0.qkv.weight"])
    assert thawing.optimizer.counts(3)["language.embedding.weight"] == 1


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path: Path, parts: int) -> None:
    whole, divided = trainer(tmp_path), trainer(tmp_path, accumulate=parts)
    batch = whole.stage.batch(4)
    assert batch["action_mask"].float().mean(1)[: 16 // parts].mean() != batch["action_mask"].float().mean()
    ours, theirs = gradients(whole, 4), gradients(divided, 4)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(theirs[name], gradient, rtol=1e-4, atol=2e-6, msg=name)
    losses = [trained(one, 4)[0] for one in (trainer(tmp_path), trainer(tmp_path, accumulate=parts))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_parts_of_a_mixture_count_by_their_tokens(tmp_path: Path) -> None:
    found = []
    for parts in (1, 4):
        config = replace(TINY_TRAIN, accumulate=parts)
        one = Trainer(mixed_stage(config), config, tmp_path, CPU)
        found.append(gradients(one, next(s for s in range(50) if one.stage.source_name(s) == "text")))  # type: ignore[attr-defined]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=2e-6, msg=name)


def test_recomputing_changes_no_bit_and_keeps_less(tmp_path: Path) -> None:
    plain, recomputed = trainer(tmp_path), trainer(tmp_path, checkpoint_activations=True)
    assert recomputed.model.state_dict().keys() == plain.model.state_dict().keys()
    kept = []
    for one in (plain, recomputed):
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            one.forward(one.stage.batch(0))
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]
    (losses, weights), (again, others) = trained(plain, 4), trained(recomputed, 4)
    assert losses == again
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_blocks_are_found() -> None:
    model = VLAStage(TINY_TRAIN, TINY, ToyDataset()).model  # type: ignore[arg-type]
    kinds = sorted({type(block).__name__ for block in repeated_blocks(model)})
    assert kinds == ["DecoderBlock", "ExpertBlock", "FiLMBlock"]
    assert recompute_blocks(model) == 2 + 2 + 2


def test_bf16_weights_follow_fp32_masters(tmp_path: Path) -> None:
    fp32, bf16 = trainer(tmp_path, precision="fp32"), trainer(tmp_path, precision="bf16")
    assert {parameter.dtype for parameter in bf16.stage.model.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in bf16.model.parameters()} == {torch.float32}
    (losses, _), (rough, masters) = trained(fp32, 12), trained(bf16, 12)
    assert rough == pytest.approx(losses, rel=0.05)
    assert rough != losses
    for name, working in bf16.stage.model.state_dict().items():
        assert torch.equal(working, masters[name].bfloat16()), name
    # Updates smaller than bfloat16 can tell apart are not lost: that is what the masters are for.
    assert any((masters[name].bfloat16().float() != masters[name]).any() for name in masters)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_is_fp32_whatever_it_was_trained_in(tmp_path: Path, precision: str) -> None:
    config = replace(TINY_TRAIN, samples=32, precision=precision)
    folder = train(config, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert {tensor.dtype for tensor in read_tensors(folder / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "cosin"}, "train.schedule=cosin is unknown: did you mean 'cosine'"),
        ({"precision": "fp16"}, "train.precision=fp16 is unknown"),
        ({"parallel": "dp"}, "train.parallel=dp is unknown: did you mean 'ddp'"),
        ({"accumulate": 64}, "train.accumulate=64 parts of train.batch_size=32 samples"),
        (
            {"rates": {"stems": 0}},
            r"train.rates=\{stems: 0\} must be a number above 0; train.freeze=\[stems\]",
        ),
        ({"rates": [0.1]}, "must be a mapping, as in {vision: 0.1}"),
        ({"freeze_until": 100}, "train.freeze_until=100 without train.freeze"),
        ({"decay_fraction": 0.0}, "train.decay_fraction=0.0 must be above 0"),
        ({"z_loss": -1.0}, "train.z_loss=-1.0 must not be negative"),
    ],
)
def test_options_that_make_no_sense_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        TrainConfig.from_dict(change)


def test_options_are_read_back_and_null_is_the_default() -> None:
    config = TrainConfig(rates={"stems": 0.1}, freeze=("language",), freeze_until=64, init_from="a")  # type: ignore[arg-type]
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.from_dict({"rates": None, "init_from": None, "keep_best": None}) == TrainConfig()
