"""Folders of backbones that are cut, mixed up, of another kind or bring code: named, never loaded."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from foundry_bench.errors import FoundryError
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.build import make_model
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.loop import train
from tests.policies.test_backbones import config_of
from tests.policies.test_vision_encoders import change_config
from tests.policies.tiny_models import LAYERS
from tests.training.toy import TINY, ToyDataset


def test_files_that_were_not_made_for_each_other_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folders["smolvlm"], mixed)
    shutil.copy(folders["qwen3_vl"] / "tokenizer.json", mixed / "tokenizer.json")
    with pytest.raises(FoundryError, match="has no token <image>"):
        make_model(config_of({"smolvlm": mixed}, "smolvlm"))
    shutil.copy(folders["smolvlm"] / "tokenizer.json", mixed / "tokenizer.json")
    words = json.loads((mixed / "tokenizer.json").read_text())
    words["model"]["vocab"]["far"] = 5000
    (mixed / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(FoundryError, match=r"tokenizer\.json has 5001 tokens, the model embeds 420"):
        make_model(config_of({"smolvlm": mixed}, "smolvlm"))
    shutil.copy(folders["smolvlm"] / "tokenizer.json", mixed / "tokenizer.json")
    change_config(mixed, {"image_token_id": 7})
    with pytest.raises(FoundryError, match=r"gives <image> the id 3, config\.json says 7"):
        make_model(config_of({"smolvlm": mixed}, "smolvlm"))


def test_layers_that_a_config_leaves_out_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(folders["lm"], cut)
    change_config(cut, {"num_hidden_layers": LAYERS - 1})
    with pytest.warns(UserWarning, match=r"have more than its config\.json asks for.*layers\.2\."):
        make_model(config_of({"lm": cut}, "lm"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make_model(config_of(folders, "lm"))


def test_a_language_model_is_no_vision_language_model(folders: dict[str, Path]) -> None:
    with pytest.raises(FoundryError, match="model_type=llama is not supported here"):
        make_model(config_of({"qwen3_vl": folders["lm"]}, "qwen3_vl"))


def test_code_of_a_repository_is_refused_in_any_part_of_its_config(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "remote"
    shutil.copytree(folders["smolvlm"], folder)
    entries = json.loads((folder / "config.json").read_text())
    entries["text_config"]["auto_map"] = {"AutoModel": "somebody/code--model.Model"}
    (folder / "config.json").write_text(json.dumps(entries))
    with pytest.raises(FoundryError, match="code of its own"):
        make_model(config_of({"smolvlm": folder}, "smolvlm"))


def test_a_checkpoint_without_the_backbones_config_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(folders, "paligemma", TINY)
    settings = TrainConfig(samples=8, batch_size=8)
    dataset: Any = ToyDataset(4)
    checkpoint = train(settings, config, dataset, tmp_path, "cpu", progress=False)
    (checkpoint / "backbone_config.json").unlink()
    with pytest.raises(FoundryError, match=r"backbone_config\.json"):
        load_policy(checkpoint)
