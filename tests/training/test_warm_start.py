"""Starting from another checkpoint: taken by name, the rest is said, what does not fit is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.checkpoint import load_checkpoint
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.language import LanguageModel
from foundry_bench.policies.storage import read_tensors, tensors_to_bytes, write_folder
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.training.loop import train
from foundry_bench.training.vla_stage import VLAStage
from foundry_bench.training.warm_start import start_from
from tests.training.toy import INSTRUCTIONS, TINY, TINY_TRAIN, ToyDataset

SHORT = replace(TINY_TRAIN, samples=32)


def language(config: VLAConfig = TINY) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return LanguageModel(config.vocab_size, config.width, config.heads, config.layers, config.hidden)


@pytest.fixture
def text_checkpoint(tmp_path: Path) -> Path:
    """What a language stage leaves: weights under their own names, and a tokenizer of other texts."""
    folder = tmp_path / "llm"
    tokenizer = TextTokenizer.train(["a cup and a square", *INSTRUCTIONS], TINY.vocab_size, TINY.text_tokens)
    files = {
        "model.safetensors": tensors_to_bytes(language().state_dict()),
        "tokenizer.json": tokenizer.to_json().encode(),
    }
    write_folder(folder, files)
    return folder


def test_a_language_model_becomes_the_vlas(tmp_path: Path, text_checkpoint: Path) -> None:
    config = replace(SHORT, init_from=str(text_checkpoint), freeze=("language",))
    folder = train(config, TINY, ToyDataset(), tmp_path / "vla", device="cpu", progress=False)
    made = load_checkpoint(folder)
    for name, tensor in language().state_dict().items():
        torch.testing.assert_close(made.weights[f"language.{name}"], tensor, rtol=0, atol=0, msg=name)
    assert made.tokenizer.to_json() == (text_checkpoint / "tokenizer.json").read_text()
    first = json.loads((tmp_path / "vla" / "train.jsonl").read_text().splitlines()[0])
    assert first["event"] == "init"
    assert (first["taken"], first["part"]) == (len(language().state_dict()), "language")
    assert "state.weight" in first["new"]
    assert not [name for name in first["new"] if name.startswith("language.")]


def test_it_goes_on_from_a_checkpoint_of_its_own_kind(tmp_path: Path) -> None:
    before = train(SHORT, TINY, ToyDataset(), tmp_path / "a", device="cpu", progress=False)
    model = VLAStage(SHORT, TINY, ToyDataset()).model  # type: ignore[arg-type]
    done = start_from(before, model, {})
    assert (done.new, done.unused, done.part) == ([], [], "")
    saved = read_tensors(before / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_another_shape_is_refused_by_name_or_left_out(text_checkpoint: Path) -> None:
    wide = replace(TINY, hidden=64)
    model = VLAStage(SHORT, wide, ToyDataset()).model  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        FoundryError, match=r"language.blocks.0.feed.up.weight is \[96, 32\] there and \[128, 32\] here"
    ):
        start_from(text_checkpoint, model, {})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    done = start_from(text_checkpoint, model, {}, partial=True)
    assert done.reshaped == [f"language.blocks.{i}.feed.{m}.weight" for i in (0, 1) for m in ("up", "down")]
    assert set(done.reshaped) <= set(done.new)
    assert torch.equal(model.language.embedding.weight, language().embedding.weight)
    assert "of another shape there" in str(done)


def test_another_vocabulary_is_refused(text_checkpoint: Path) -> None:
    stage = VLAStage(SHORT, TINY, ToyDataset())  # type: ignore[arg-type]
    with pytest.raises(FoundryError, match=r"tokenizer.json has another vocabulary \(\d+ tokens\)"):
        start_from(text_checkpoint, stage.model, stage.files())


def test_a_vocabulary_that_the_model_has_no_room_for_is_refused(
    tmp_path: Path, text_checkpoint: Path
) -> None:
    config = replace(SHORT, init_from=str(text_checkpoint))
    with pytest.raises(FoundryError, match=r"has \d+ tokens, more than model.vocab_size=260"):
        train(
            config, replace(TINY, vocab_size=260), ToyDataset(), tmp_path / "x", device="cpu", progress=False
        )


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "other", {"model.safetensors": tensors_to_bytes({"encoder.w": torch.ones(2)})})
    model = VLAStage(SHORT, TINY, ToyDataset()).model  # type: ignore[arg-type]
    with pytest.raises(
        FoundryError, match=r"none of its tensors is in the model, which has no 1 \(encoder.w\)"
    ):
        start_from(tmp_path / "other", model, {})


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = replace(SHORT, init_from=str(tmp_path / "nowhere"))
    with pytest.raises(FoundryError, match=r"nowhere/model.safetensors"):
        train(config, TINY, ToyDataset(), tmp_path / "x", device="cpu", progress=False)


def test_a_resumed_run_does_not_start_again(tmp_path: Path, text_checkpoint: Path) -> None:
    """Killed before anything was saved, it does; its log then begins anew."""
    config = replace(TINY_TRAIN, samples=256, save_every=128, init_from=str(text_checkpoint))
    train(config, TINY, ToyDataset(), tmp_path / "whole", device="cpu", progress=False)
    plain = VLAStage.batch
    for last in (5, 11):

        def dies(self: VLAStage, step: int, last: int = last) -> dict[str, torch.Tensor]:
            if step == last:
                raise RuntimeError("the machine is gone")
            return plain(self, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VLAStage, "batch", dies)
            with pytest.raises(RuntimeError, match="gone"):
                train(config, TINY, ToyDataset(), tmp_path / "twice", device="cpu", progress=False)
    train(config, TINY, ToyDataset(), tmp_path / "twice", device="cpu", progress=False)
    ours, theirs = (tmp_path / name / "checkpoint" / "model.safetensors" for name in ("whole", "twice"))
    assert ours.read_bytes() == theirs.read_bytes()
    told = [json.loads(line) for line in (tmp_path / "twice" / "train.jsonl").read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in told] == [
        ("init", 0), ("train", 4), ("train", 8), ("train", 12), ("train", 16),
    ]  # fmt: skip
