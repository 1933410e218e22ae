"""A run that is killed and resumed ends with the bits of one that was not; what does not fit is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies import storage
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.loop import train
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

CHILD = """
import sys, time, torch
from pathlib import Path
from foundry_bench.training import loop
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

torch.set_num_threads(1)
update = loop.Trainer.update
def slow(self, batch):
    time.sleep(0.02)  # so that the kill comes in the middle
    return update(self, batch)
loop.Trainer.update = slow
loop.train(TINY_TRAIN, TINY, ToyDataset(), Path(sys.argv[1]), device="cpu", progress=False)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("uninterrupted")
    train(TINY_TRAIN, TINY, ToyDataset(), out, device="cpu", progress=False)
    return out


def contents(out: Path) -> dict[str, bytes]:
    """Everything that must be the same: checkpoint and state."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in ("checkpoint", "state")
        for path in sorted((out / folder).iterdir())
    }


def logged(out: Path) -> list[tuple[object, ...]]:
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    keys = ("event", "step", "loss", "gradient_norm", "text/loss")
    return [tuple(line.get(key) for key in keys) for line in lines]


def saved_step(out: Path) -> int:
    try:
        return json.loads((out / "state" / "trainer.json").read_text())["step"]
    except (OSError, ValueError):
        return 0


def test_killed_twice_and_resumed_is_bit_for_bit_the_same(tmp_path: Path, uninterrupted: Path) -> None:
    out = tmp_path / "killed"
    for stop_after in (8, 16):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(out)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 120
        while saved_step(out) < stop_after and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert child.poll() is None, "the child ended before it could be killed"
        child.kill()
        child.wait()
        assert stop_after <= saved_step(out) < TINY_TRAIN.steps
    train(TINY_TRAIN, TINY, ToyDataset(), out, device="cpu", progress=False)
    ours, theirs = contents(out), contents(uninterrupted)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert logged(out) == logged(uninterrupted)


def test_a_finished_run_returns_at_once(uninterrupted: Path) -> None:
    before = contents(uninterrupted)
    times = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()}
    checkpoint = train(TINY_TRAIN, TINY, ToyDataset(), uninterrupted, device="cpu", progress=False)
    assert checkpoint == uninterrupted / "checkpoint"
    assert contents(uninterrupted) == before
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()} == times


def test_a_checkpoint_that_is_gone_is_made_again_from_the_state(tmp_path: Path, uninterrupted: Path) -> None:
    shutil.copytree(uninterrupted / "state", tmp_path / "state")
    train(TINY_TRAIN, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert contents(tmp_path) == contents(uninterrupted)


def test_bookkeeping_may_change_between_runs(tmp_path: Path, uninterrupted: Path) -> None:
    config = replace(TINY_TRAIN, save_every=48, log_every=32, prefetch=1)
    train(config, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    for name in ("model.safetensors", "normalization.json", "tokenizer.json"):
        ours, theirs = tmp_path / "checkpoint" / name, uninterrupted / "checkpoint" / name
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("train_change", "model_change", "episodes", "words"),
    [
        ({"learning_rate": 0.5}, {}, 60, "train.learning_rate=0.003, now it is 0.5"),
        ({"samples": 1024}, {}, 60, "train.samples=512, now it is 1024"),
        ({}, {"head": "regression"}, 60, "model.head=flow, now it is regression"),
        ({}, {}, 59, "data.episodes=60, now it is 59"),
    ],
)
def test_a_folder_of_another_config_is_refused(
    uninterrupted: Path,
    train_change: dict[str, float],
    model_change: dict[str, str],
    episodes: int,
    words: str,
) -> None:
    before = contents(uninterrupted)
    with pytest.raises(FoundryError, match=words):
        train(
            replace(TINY_TRAIN, **train_change),  # type: ignore[arg-type]
            replace(TINY, **model_change),  # type: ignore[arg-type]
            ToyDataset(episodes),
            uninterrupted,
            device="cpu",
            progress=False,
        )
    assert contents(uninterrupted) == before


SHORT = replace(TINY_TRAIN, samples=256)


def test_a_full_disk_keeps_the_checkpoint_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = os.fsync

    def fills_up(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 14:  # the first checkpoint and state are written, the second are not
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", fills_up)
        with pytest.raises(FoundryError, match="No space left on device; the one saved before is kept"):
            train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert saved_step(tmp_path) == 8
    assert not list(tmp_path.glob("*.new"))
    train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert saved_step(tmp_path) == 16


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path, poison: float) -> None:
    from foundry_bench.training.vla_stage import VLAStage

    plain = VLAStage.batch

    def poisoned(self: VLAStage, step: int) -> dict[str, torch.Tensor]:
        batch = plain(self, step)
        if step == 11:
            batch["state"][3, 0] = poison
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLAStage, "batch", poisoned)
        with pytest.raises(FoundryError, match=r"stopped at step 11: loss nan.*checkpoint holds step 8"):
            train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    tensors = storage.read_tensors(tmp_path / "checkpoint" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert saved_step(tmp_path) == 16


@pytest.mark.parametrize("file", ["trainer.safetensors", "trainer.json"])
def test_a_damaged_state_is_named(tmp_path: Path, file: str) -> None:
    train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    path = tmp_path / "state" / file
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FoundryError, match=file):
        train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)


def test_no_pickle_is_written(uninterrupted: Path) -> None:
    suffixes = {path.suffix for name in ("checkpoint", "state") for path in (uninterrupted / name).iterdir()}
    assert suffixes == {".json", ".yaml", ".md", ".safetensors"}


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(
        FoundryError, match=r"train\.bacth_size is not a known key: did you mean 'batch_size'"
    ):
        TrainConfig.from_dict({"bacth_size": 3})
    assert TrainConfig.from_dict(TINY_TRAIN.to_dict()) == TINY_TRAIN


MIXED_CHILD = """
import sys, time, torch
from pathlib import Path
from foundry_bench.training.trainer import Trainer
from tests.training.sources import train_mixed
from tests.training.test_resume import EVERYTHING

torch.set_num_threads(1)
update = Trainer.update
def slow(self, batch):
    time.sleep(0.02)
    return update(self, batch)
Trainer.update = slow
train_mixed(EVERYTHING, Path(sys.argv[1]))
"""
EVERYTHING = replace(
    TINY_TRAIN,
    samples=768,
    save_every=80,
    log_every=16,
    accumulate=3,
    schedule="wsd",
    rates={"stems": 0.5},  # type: ignore[arg-type]
    freeze=("state", "language.norm"),
    freeze_until=320,
    precision="bf16",
    checkpoint_activations=True,
)


def test_a_mixture_with_every_option_killed_at_any_step_ends_the_same(tmp_path: Path) -> None:
    from tests.training.sources import train_mixed

    train_mixed(EVERYTHING, tmp_path / "whole")
    chance = random.Random(os.getpid())
    for attempt in range(3):
        out = tmp_path / "killed"
        child = subprocess.Popen(
            [sys.executable, "-c", MIXED_CHILD, str(out)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 120
        while saved_step(out) < 5 + 10 * attempt and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        child.kill()
        child.wait()
        assert saved_step(out) > 0
    train_mixed(EVERYTHING, tmp_path / "killed")
    ours, theirs = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    assert [name for name in ours if ours[name] != theirs.get(name)] == []
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
