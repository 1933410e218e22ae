"""Checkpoint folders: what is written is read back, and what is damaged is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from foundry_bench.errors import FoundryError
from foundry_bench.policies import storage
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.checkpoint import checkpoint_hash
from foundry_bench.policies.vla_policy import VLAPolicy
from tests.policies.conftest import SMALL, observations, parts


def test_a_loaded_policy_predicts_what_the_saved_one_did(checkpoint: Path) -> None:
    loaded = load_policy(checkpoint, device="cpu")
    made = VLAPolicy(*parts(SMALL), device="cpu")
    everything = observations(SMALL, 3)
    np.testing.assert_array_equal(loaded.predict(everything, range(3)), made.predict(everything, range(3)))
    assert loaded.spec == SMALL.spec()
    assert loaded.name == SMALL.name


def test_the_folder_has_the_files_of_the_contract(checkpoint: Path) -> None:
    names = {"config.yaml", "model.safetensors", "normalization.json", "tokenizer.json", "README.md"}
    assert {path.name for path in checkpoint.iterdir()} == names
    assert yaml.safe_load((checkpoint / "config.yaml").read_text())["model"]["width"] == 64
    assert "2 demonstrations" in (checkpoint / "README.md").read_text()


def test_the_hash_is_of_the_contents(checkpoint: Path) -> None:
    before = checkpoint_hash(checkpoint)
    assert len(before) == 12
    assert load_policy(checkpoint, device="cpu").checkpoint_hash == before
    (checkpoint / "README.md").write_text("another card")
    assert checkpoint_hash(checkpoint) == before
    scaling = json.loads((checkpoint / "normalization.json").read_text())
    scaling["action"]["scale"][0] *= 2
    (checkpoint / "normalization.json").write_text(json.dumps(scaling))
    assert checkpoint_hash(checkpoint) != before


def change_weights(checkpoint: Path, change: str) -> None:
    path = checkpoint / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    if change == "missing":
        del tensors["expert.output.weight"]
    elif change == "extra":
        tensors["expert.surplus"] = torch.zeros(1)
    elif change == "shape":
        tensors["state.weight"] = torch.zeros(3, 5)
    elif change == "type":
        tensors["state.weight"] = tensors["state.weight"].half()
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "missing expert.output.weight"),
        ("extra", "not in the model: expert.surplus"),
        ("shape", r"state.weight is torch.float32 \[3, 5\]"),
        ("type", "state.weight is torch.float16"),
    ],
)
def test_tensors_that_do_not_fit_are_named(checkpoint: Path, change: str, words: str) -> None:
    change_weights(checkpoint, change)
    with pytest.raises(FoundryError, match=words):
        load_policy(checkpoint)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model.safetensors", "truncated or not a safetensors file"),
        ("normalization.json", "not a normalization file"),
        ("tokenizer.json", "not a tokenizer"),
        ("config.yaml", "config.yaml"),
    ],
)
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_truncated_files_are_named(checkpoint: Path, file: str, words: str, keep: float) -> None:
    path = checkpoint / file
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    if file == "config.yaml" and keep:
        path.write_text("model: [unclosed")
    with pytest.raises(FoundryError, match=words) as caught:
        load_policy(checkpoint)
    assert "\n" not in str(caught.value)
    assert file in str(caught.value)


@pytest.mark.parametrize("file", ["config.yaml", "model.safetensors", "normalization.json", "tokenizer.json"])
def test_missing_files_are_named(checkpoint: Path, file: str) -> None:
    (checkpoint / file).unlink()
    with pytest.raises(FoundryError, match=file):
        load_policy(checkpoint)


def edit_config(checkpoint: Path, section: str, key: str, value: object) -> None:
    path = checkpoint / "config.yaml"
    config = yaml.safe_load(path.read_text())
    (config[section] if section else config)[key] = value
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("model", "widht", 64, "did you mean 'width'"),
        ("", "modle", {}, "did you mean 'model'"),
        ("model", "head", "flwo", "did you mean 'flow'"),
        ("model", "width", 128, "does not fit its config"),
        ("model", "vocab_size", 100, "more than model.vocab_size=100|does not fit"),
        ("model", "state_dim", 9, "does not fit its config|entries"),
        ("model", "heads", 0, "model.heads"),
        ("model", "width", "wide", "model.width"),
    ],
)
def test_configs_that_do_not_fit_are_refused(
    checkpoint: Path, section: str, key: str, value: object, words: str
) -> None:
    edit_config(checkpoint, section, key, value)
    with pytest.raises(FoundryError, match=words):
        load_policy(checkpoint)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="is not a folder"):
        load_policy(tmp_path / "nothing")
    with pytest.raises(FoundryError, match=r"config\.yaml"):
        load_policy(tmp_path)


def test_a_device_that_is_not_there(checkpoint: Path) -> None:
    with pytest.raises(FoundryError, match="device=nonsense"):
        load_policy(checkpoint, device="nonsense")


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "thing"
    storage.write_folder(folder, {"a": b"old", "b": b"old"})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FoundryError, match="No space left on device; the one saved before is kept"):
            storage.write_folder(folder, {"a": b"new", "b": b"new"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"old", "b": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("moment", ["before the swap", "within the swap", "after the swap"])
def test_an_interrupted_write_leaves_a_whole_folder(tmp_path: Path, moment: str) -> None:
    folder, new, old = tmp_path / "x", tmp_path / "x.new", tmp_path / "x.old"
    for path, content in ((folder, "1"), (new, "2"), (old, "0")):
        path.mkdir()
        (path / "file").write_text(content)
    if moment == "before the swap":
        (old / "file").unlink()
        old.rmdir()
    elif moment == "within the swap":
        (folder / "file").unlink()
        folder.rmdir()
    storage.settle_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (folder / "file").read_text() == ("0" if moment == "within the swap" else "1")
    storage.write_folder(folder, {"file": b"3"})
    assert (folder / "file").read_text() == "3"
