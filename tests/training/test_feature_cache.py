"""Kept features: the same as computed ones, found again, never stale, bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.build import make_model
from foundry_bench.training import feature_cache
from foundry_bench.training.augment import shift_images
from foundry_bench.training.feature_cache import FeatureCache, fixed_shifts
from foundry_bench.training.loop import train
from foundry_bench.training.vla_stage import VLAStage
from tests.policies.tiny_models import save_tower
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

VIEWS = replace(TINY_TRAIN, feature_views=3, shift=2, samples=64)


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """A toy dataset that has a folder."""
    made = ToyDataset(6)
    made.root = tmp_path / "toy"
    made.root.mkdir()
    return made


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The toy's model on a frozen SigLIP."""
    tower = save_tower(tmp_path_factory.mktemp("towers") / "siglip", "siglip")
    return replace(TINY, vision="pretrained", vision_path=str(tower), vision_tuning="frozen")


def cache_of(config: Any, dataset: Any, **change: Any) -> FeatureCache:
    return FeatureCache.of(make_model(config), dataset, replace(VIEWS, **change), progress=False)


def files(dataset: Any) -> list[Path]:
    return sorted((dataset.root / "features").glob("*"))


def test_kept_features_are_those_of_the_shifted_images(config: Any, dataset: Any) -> None:
    cache = cache_of(config, dataset)
    assert cache.features.shape == (72, 3, 1, 16, 32)
    assert cache.features.dtype == np.float16
    shifts = fixed_shifts(VIEWS, 1)
    assert not shifts[0].any()
    assert shifts[1:].any()
    encoder: Any = make_model(config).vision
    for view in range(3):
        moved = shift_images(dataset.images, np.tile(shifts[view, 0], (72, 1)))
        with torch.no_grad():
            expected = encoder(torch.from_numpy(moved))
        kept = torch.from_numpy(cache.features[:, view, 0].astype(np.float32))
        torch.testing.assert_close(kept, expected, atol=4e-3, rtol=2e-3)


def test_a_batch_holds_features_of_its_frames_one_view_each(config: Any, dataset: Any) -> None:
    stage = VLAStage(VIEWS, config, dataset)
    plain = stage.batch(2)
    stage.keep_features(torch.device("cpu"), progress=False)
    batch = stage.batch(2)
    assert batch["images"].shape == (16, 1, 16, 32)
    assert batch["images"].dtype == torch.float16
    assert torch.equal(batch["actions"], plain["actions"])
    assert torch.equal(stage.batch(2)["images"], batch["images"])
    assert stage._features is not None
    frames = stage._order.batch(2)
    found = [
        [(kept == drawn).all() for kept in stage._features.features[frame, :, 0]]
        for frame, drawn in zip(frames, batch["images"][:, 0].numpy(), strict=True)
    ]
    assert np.array(found).any(axis=1).all()
    assert np.array(found).any(axis=0).all()  # every view is drawn by some row
    loss = stage.loss(batch, torch.Generator().manual_seed(0))
    assert torch.isfinite(loss)


def test_one_unshifted_view_trains_as_without_keeping(config: Any, dataset: Any) -> None:
    plain = replace(VIEWS, feature_views=0, shift=0, state_noise=0.0)
    losses = []
    for views in (0, 1):
        stage = VLAStage(replace(plain, feature_views=views), config, dataset)
        if views:
            stage.keep_features(torch.device("cpu"), progress=False)
        losses.append(stage.loss(stage.batch(0), torch.Generator().manual_seed(0)).item())
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_features_are_found_again_and_a_stale_file_is_never_read(
    config: Any, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache_of(config, dataset)
    assert len(files(dataset)) == 1
    calls: list[int] = []
    encoded = feature_cache.encoded
    monkeypatch.setattr(feature_cache, "encoded", lambda *x: calls.append(1) or encoded(*x))
    np.testing.assert_array_equal(cache_of(config, dataset).features, first.features)
    assert not calls
    for change in ({"seed": 1}, {"feature_views": 2}, {"shift": 3}):
        calls.clear()
        cache_of(config, dataset, **change)
        assert calls, change
    model = make_model(config)
    with torch.no_grad():
        model.vision.tower.post_layernorm.weight[0] += 0.5  # type: ignore[union-attr, index]
    calls.clear()
    FeatureCache.of(model, dataset, VIEWS, progress=False)
    assert calls
    other = ToyDataset(6, seed=1)
    other.root = dataset.root
    calls.clear()
    cache_of(config, other)
    assert calls
    assert len(files(dataset)) == 6
    assert not [path for path in files(dataset) if path.name.startswith(".")]


def test_a_damaged_file_is_made_again(config: Any, dataset: Any) -> None:
    first = np.array(cache_of(config, dataset).features)
    path = files(dataset)[0]
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(cache_of(config, dataset).features, first)
    path.write_bytes(b"nothing")
    np.testing.assert_array_equal(cache_of(config, dataset).features, first)


def test_without_a_folder_features_are_kept_in_memory(config: Any, dataset: Any) -> None:
    on_disk = cache_of(config, dataset)
    homeless: Any = ToyDataset(6)
    homeless.root = Path("nowhere at all")
    in_memory = cache_of(config, homeless)
    assert not isinstance(in_memory.features, np.memmap)
    assert isinstance(on_disk.features, np.memmap)
    np.testing.assert_array_equal(in_memory.features, on_disk.features)
    assert not homeless.root.exists()


def test_a_disk_without_room_is_noticed_before_anything_is_computed(
    config: Any, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory map that finds the disk full ends the process without a word."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache.os, "posix_fallocate", full, raising=False)
    assert not isinstance(cache_of(config, dataset).features, np.memmap)
    assert files(dataset) == []


def test_what_was_not_finished_is_not_left_behind(
    config: Any, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache, "encoded", stopped)
    with pytest.raises(KeyboardInterrupt):
        cache_of(config, dataset)
    assert files(dataset) == []


def test_what_would_be_too_large_is_refused_before_anything_is_computed(config: Any, dataset: Any) -> None:
    with pytest.raises(
        FoundryError, match=r"train.feature_views=3 takes 0.0 GiB, train.feature_gib allows 1e-05"
    ):
        cache_of(config, dataset, feature_gib=1e-5)
    with pytest.raises(FoundryError, match="use 2 views, or allow more"):
        cache_of(config, dataset, feature_gib=1.6e-4)
    assert not (dataset.root / "features").exists()


@pytest.mark.parametrize("change", [{"vision_tuning": "full"}, {"vision": "vit", "vision_tuning": "full"}])
def test_only_a_frozen_encoder_can_be_kept(config: Any, dataset: Any, change: dict[str, str]) -> None:
    path = "" if change.get("vision") == "vit" else config.vision_path
    with pytest.raises(FoundryError, match=r"train.feature_views=3 needs a frozen vision encoder"):
        cache_of(replace(config, vision_path=path, **change), dataset)
    with pytest.raises(FoundryError, match="needs a frozen vision encoder"):
        cache_of(TINY, dataset)


def test_a_policy_trained_on_features_sees_images(config: Any, dataset: Any, tmp_path: Path) -> None:
    checkpoint = train(VIEWS, config, dataset, tmp_path / "out", "cpu", progress=False)
    batch = dataset.batch(np.arange(6), TINY.horizon)
    policy = load_policy(checkpoint, device="cpu")
    seen = {**batch["images"], "state": batch["state"], "instruction": batch["instruction"]}
    chunks = policy.predict(seen, range(6))
    assert np.isfinite(chunks).all()
    again = train(VIEWS, config, dataset, tmp_path / "again", "cpu", progress=False)
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
