"""Training on pretrained parts: their own rate, what is fixed is kept once, and new encoders learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.backbones import loading
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.build import make_model
from foundry_bench.policies.storage import read_tensors
from foundry_bench.training.loop import train
from foundry_bench.training.optimizer import MovingAverage, Optimizer
from tests.policies.test_encoder_vla import needs_minilm
from tests.policies.test_vision_encoders import needs_efficientnet
from tests.policies.tiny_models import save_tower
from tests.training.toy import INSTRUCTIONS, TINY, TINY_TRAIN, ToyDataset


@pytest.fixture
def tuned(tmp_path: Path) -> Any:
    """The toy's model on a SigLIP that is tuned."""
    return replace(TINY, vision="pretrained", vision_path=str(save_tower(tmp_path / "siglip", "siglip")))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_pretrained_weights_learn_slowly_and_do_not_decay(tuned: Any, optimizer: str) -> None:
    model = make_model(tuned)
    made = Optimizer(model, replace(TINY_TRAIN, optimizer=optimizer))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    slow = [group for group in made.param_groups if group["factor"] != 1]
    assert len(slow) == 1
    assert {names[id(p)] for p in slow[0]["params"]} == {n for n in names.values() if n.startswith("vision.")}
    assert slow[0]["weight_decay"] == 0
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    made.step(1e-2)
    steps = {name: (value - before[name]).abs().max().item() for name, value in model.named_parameters()}
    assert steps["vision.tower.post_layernorm.weight"] == pytest.approx(3e-4, rel=1e-2)
    assert steps["state.bias"] == pytest.approx(1e-2, rel=1e-2)


def test_what_is_fixed_is_kept_once_in_memory_and_on_disk(tuned: Any, tmp_path: Path) -> None:
    config = replace(tuned, vision_tuning="frozen")
    model = make_model(config)
    average = MovingAverage(model, 0.9)
    theirs = dict(average.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert (theirs[name] is parameter) == name.startswith("vision."), name
    assert average.shared == {name for name in theirs if name.startswith("vision.")}
    dataset: Any = ToyDataset(6)
    settings = replace(TINY_TRAIN, samples=32)
    train(settings, config, dataset, tmp_path / "out", "cpu", progress=False)
    saved = read_tensors(tmp_path / "out" / "state" / "trainer.safetensors")
    assert any(name.startswith("weights.vision.") for name in saved)
    assert not any(name.startswith("average.vision.") for name in saved)
    assert any(name.startswith("average.projector.") for name in saved)
    for path in (tmp_path / "out" / "checkpoint").iterdir():
        path.unlink()
    (tmp_path / "out" / "checkpoint").rmdir()
    checkpoint = train(settings, config, dataset, tmp_path / "out", "cpu", progress=False)
    weights = read_tensors(checkpoint / "model.safetensors")
    expected = model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in average.shared)


def test_a_hub_is_asked_for_data_files_of_one_revision_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(save_tower(tmp_path / "snapshot", "dinov2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    config = replace(TINY, vision="pretrained", vision_path="somebody/dinov2@abc123")
    make_model(config)
    name, options = asked[0]
    assert (name, options["revision"]) == ("somebody/dinov2", "abc123")
    assert all(pattern.endswith((".json", ".safetensors")) for pattern in options["allow_patterns"])

    def unreachable(name: str, **options: Any) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(FoundryError, match=r"could not be fetched from the hub \(no route to host\)"):
        loading.open_source("somebody/dinov2", "model.vision_path")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            {"vision": "vit", "vit_width": 32, "vit_heads": 2, "vit_layers": 2, "vit_patch": 4}, id="vit"
        ),
        pytest.param(
            {
                "vision": "efficientnet_lite0",
                "vision_tuning": "frozen",
                "vision_pixels": 64,
                "text": "minilm",
            },
            marks=[needs_efficientnet, needs_minilm],
            id="effnet-minilm",
        ),
    ],
)
def test_it_learns_to_go_where_the_instruction_says(tmp_path: Path, change: dict[str, Any]) -> None:
    frozen = change.get("vision_tuning") == "frozen"
    settings = replace(
        TINY_TRAIN, samples=20_000, batch_size=32, shift=0, save_every=100_000, feature_views=int(frozen)
    )
    dataset: Any = ToyDataset(200)
    checkpoint = train(settings, replace(TINY, **change), dataset, tmp_path, "cpu", progress=False)
    unseen = ToyDataset(20, seed=1)
    batch = unseen.batch(np.arange(len(unseen)), TINY.horizon)
    policy = load_policy(checkpoint, device="cpu")
    seen = {**batch["images"], "state": batch["state"], "instruction": batch["instruction"]}
    right = np.abs(policy.predict(seen, range(len(unseen))) - batch["actions"])[..., :2].mean()
    seen["instruction"] = [INSTRUCTIONS[1 - named] for named in unseen.named]
    wrong = np.abs(policy.predict(seen, range(len(unseen))) - batch["actions"])[..., :2].mean()
    assert right < 0.12  # of 0.38 for standing still
    assert wrong > 3 * right
