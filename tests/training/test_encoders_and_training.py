"""Options of the training loop with pretrained and frozen parts."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.build import make_model
from foundry_bench.policies.checkpoint import load_checkpoint
from foundry_bench.policies.storage import read_tensors
from foundry_bench.training import feature_cache
from foundry_bench.training.beside import Beside
from foundry_bench.training.feature_cache import FeatureCache
from foundry_bench.training.loop import Trainer, train
from foundry_bench.training.meter import Update
from foundry_bench.training.optimizer import Optimizer
from foundry_bench.training.parts import Freezing
from foundry_bench.training.stage import Batch, Rows, batch_rows
from foundry_bench.training.vla_stage import VLAStage
from tests.policies.test_encoder_vla import needs_minilm
from tests.policies.tiny_models import save_lm, save_tower, save_vlm
from tests.training.test_distributed import PATIENCE, assert_same, done, job, told
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

SHORT = replace(TINY_TRAIN, samples=64, save_every=32, warmup=16)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tower(tmp_path_factory.mktemp("towers") / "siglip", "siglip")


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """A toy dataset that has a folder."""
    made = ToyDataset(6)
    made.root = tmp_path / "toy"
    made.root.mkdir()
    return made


def siglip(tower: Path, **change: Any) -> Any:
    return replace(TINY, vision="pretrained", vision_path=str(tower), **change)


def frozen(tower: Path) -> Any:
    return siglip(tower, vision_tuning="frozen")


def test_rates_of_parts_multiply_the_pretrained_rate(tower: Path) -> None:
    model: Any = make_model(siglip(tower))
    made = Optimizer(model, replace(TINY_TRAIN, rates=(("state", 0.5), ("vision.tower.encoder", 0.1))))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: group["factor"] for group in made.param_groups for p in group["params"]}
    assert set(found) == set(names.values())
    for name, factor in found.items():
        deep = name.startswith("vision.tower.encoder.")
        expected = 0.03 * (0.1 if deep else 1) if name.startswith("vision.") else 1.0
        assert factor == pytest.approx(0.5 if name.startswith("state.") else expected), name
    for group in made.param_groups:
        slow = any(names[id(p)].startswith("vision.") for p in group["params"])
        assert not (slow and group["weight_decay"])


def test_a_frozen_encoder_does_not_thaw_with_its_part(tower: Path) -> None:
    model: Any = make_model(frozen(tower))
    freezing = Freezing(model, replace(SHORT, freeze=("vision", "projector"), freeze_until=16))
    for step, thawed in ((0, False), (1, True), (2, True)):
        freezing.begin(model, step)
        assert not any(p.requires_grad for p in model.vision.parameters())
        assert all(p.requires_grad == thawed for p in model.projector.parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"accumulate": 2},
        {"freeze": ("language",)},
        {"checkpoint_activations": True},
    ],
    ids=["bf16", "parts", "frozen-language", "recomputed"],
)
def test_a_resumed_run_ends_with_the_same_bits(
    tower: Path, dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    config, settings = frozen(tower), replace(SHORT, **change)
    whole = train(settings, config, dataset, tmp_path / "whole", "cpu", progress=False)
    resumed = killed_and_resumed(settings, config, dataset, tmp_path / "killed", monkeypatch)
    for path in whole.iterdir():
        assert (resumed / path.name).read_bytes() == path.read_bytes(), path.name
    saved = read_tensors(tmp_path / "killed" / "state" / "trainer.safetensors")
    kept_once = {"vision", *settings.freeze}
    twice = {name.split(".")[1] for name in saved if name.startswith("average.")}
    assert twice == {"projector", "film", "position", "state", "expert", "language"} - kept_once


def killed_and_resumed(
    settings: Any, config: Any, dataset: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    update = Trainer.update

    def killed(self: Trainer, batch: Batch) -> Update:
        if self.step == 3:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", killed)
        train(settings, config, dataset, out, "cpu", progress=False)
    return train(settings, config, dataset, out, "cpu", progress=False)


def test_rows_of_a_batch_of_features_are_those_of_the_whole(tower: Path, dataset: Any) -> None:
    settings = replace(SHORT, feature_views=3)
    stage = VLAStage(settings, frozen(tower), dataset)
    stage.keep_features(torch.device("cpu"), progress=False)
    whole = stage.batch(1)
    for rows in Rows(0, 16, 16).divide(3):
        part = batch_rows(stage, 1, rows)
        for name in ("images", "state", "actions"):
            assert torch.equal(part[name], whole[name][rows.first : rows.stop]), name
        cut = stage.cut(whole, rows.first, rows.stop)
        assert torch.equal(cut["images"], part["images"])


def test_features_of_a_resumed_run_are_the_saved_encoders(
    tower: Path, dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of a resumed run is built untrained: what it was trained with is in its state."""
    settings, config = replace(SHORT, feature_views=2), frozen(tower)
    whole = train(settings, config, dataset, tmp_path / "whole", "cpu", progress=False)
    calls: list[int] = []
    encoded = feature_cache.encoded
    monkeypatch.setattr(feature_cache, "encoded", lambda *x: calls.append(1) or encoded(*x))
    resumed = killed_and_resumed(settings, config, dataset, tmp_path / "killed", monkeypatch)
    assert not calls
    assert len(list((dataset.root / "features").iterdir())) == 1
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_features_are_of_the_encoder_that_a_run_starts_from(
    tower: Path, dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = train(SHORT, siglip(tower), dataset, tmp_path / "tuned", "cpu", progress=False)
    kept: list[FeatureCache] = []
    of = FeatureCache.of
    monkeypatch.setattr(FeatureCache, "of", lambda *x: kept.append(of(*x)) or kept[-1])
    settings = replace(SHORT, feature_views=1, shift=0, init_from=str(tuned))
    out = train(settings, frozen(tower), dataset, tmp_path / "out", "cpu", progress=False)
    model: Any = make_model(frozen(tower))
    model.load_state_dict(dict(load_checkpoint(out).weights))
    with torch.no_grad():
        expected = model.vision(torch.from_numpy(dataset.images))
    found = torch.from_numpy(kept[0].features[:, 0, 0].astype(np.float32))
    torch.testing.assert_close(found, expected, atol=4e-3, rtol=2e-3)
    fresh: Any = make_model(frozen(tower))
    assert (fresh.vision(torch.from_numpy(dataset.images)) - found).abs().max() > 0.05


def test_recomputing_a_pretrained_backbones_blocks_is_refused(tmp_path: Path, dataset: Any) -> None:
    config = replace(
        TINY, backbone="vlm", backbone_path=str(save_vlm(tmp_path / "m", "smolvlm")), text_tokens=32
    )
    with pytest.raises(
        FoundryError,
        match=r"checkpoint_activations=true does not go with model.backbone=vlm and model.tuning=full",
    ):
        VLAStage(replace(SHORT, checkpoint_activations=True), config, dataset)
    settings = replace(SHORT, samples=16, checkpoint_activations=True)
    still = replace(config, tuning="frozen")
    losses = []
    for keep in (True, False):
        trainer = Trainer(
            VLAStage(settings, still, dataset),
            replace(settings, checkpoint_activations=not keep),
            tmp_path,
            torch.device("cpu"),
        )
        losses.append(trainer.update(trainer.stage.batch(0)).loss)
    assert losses[0] == losses[1]


def test_what_has_no_words_of_ours_learns_no_text_beside(tmp_path: Path, dataset: Any) -> None:
    lm = {"vision": "vit", "vit_width": 16, "vit_heads": 2, "vit_patch": 8, "text_tokens": 32}
    config = replace(TINY, backbone="lm", backbone_path=str(save_lm(tmp_path / "lm")), **lm)
    stage = VLAStage(SHORT, config, dataset)
    with pytest.raises(FoundryError, match=r"cotrain.*model.backbone=lm has another"):
        Beside(text=1.0).added_to("robot", stage, SHORT)
    assert Beside().added_to("robot", stage, SHORT) is stage


@needs_minilm
def test_minilm_reads_but_does_not_learn_text(dataset: Any) -> None:
    stage = VLAStage(SHORT, replace(TINY, text="minilm"), dataset)
    with pytest.raises(FoundryError, match=r"cotrain.*model.text=minilm only reads"):
        Beside(captions=1.0).added_to("robot", stage, SHORT)


@pytest.mark.slow
@pytest.mark.timeout(5 * PATIENCE)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("body", ["vit", "frozen", "kept"])
def test_processes_share_a_model_with_another_encoder(
    tower: Path, tmp_path: Path, body: str, parallel: str
) -> None:
    """A transformer from scratch, a frozen tower, and a frozen tower whose features are kept."""
    if body == "vit":
        model: dict[str, Any] = {"vision": "vit", "vit_width": 16, "vit_heads": 2, "vit_patch": 8}
    else:
        model = {"vision": "pretrained", "vision_path": str(tower), "vision_tuning": "frozen"}
    common: dict[str, Any] = {"optimizer": "adamw", "feature_views": 2 if body == "kept" else 0}
    words = ("--model", json.dumps(model))
    theirs = done(0, tmp_path / "alone", *words, **common)
    out = tmp_path / "two"
    ended: subprocess.CompletedProcess[str] = job(
        2, out, *words, "--stop-at", "5", **common, parallel=parallel
    )
    assert "asked to stop (SIGTERM)" in ended.stderr, told(ended)
    ours = done(2, out, *words, **common, parallel=parallel)  # goes on from what both saved
    assert_same(ours, theirs)


@pytest.mark.slow
@pytest.mark.timeout(5 * PATIENCE)
def test_a_sharded_run_with_a_frozen_encoder_goes_on_alone(tower: Path, tmp_path: Path) -> None:
    model = {"vision": "pretrained", "vision_path": str(tower), "vision_tuning": "frozen"}
    words = ("--model", json.dumps(model))
    theirs = done(0, tmp_path / "alone", *words, optimizer="adamw")
    out = tmp_path / "run"
    for processes, parallel, stop in ((2, "fsdp", 4), (0, "none", 8)):
        ended = job(processes, out, *words, "--stop-at", str(stop), optimizer="adamw", parallel=parallel)
        assert "asked to stop (SIGTERM)" in ended.stderr, told(ended)
    assert_same(done(2, out, *words, optimizer="adamw", parallel="fsdp"), theirs)
