"""Co-training as a run asks for it: the mixture's shares, what each step leaves alone, exact resuming."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foundry_bench.data.corpora.spec import corpora_from
from foundry_bench.errors import FoundryError
from foundry_bench.policies.answers import IGNORED
from foundry_bench.policies.baselines.config import ACTConfig
from foundry_bench.policies.lm_config import LMConfig
from foundry_bench.training import loop
from foundry_bench.training.beside import Beside
from foundry_bench.training.caption_source import CaptionSource
from foundry_bench.training.llm_stage import LLMStage, train_language_model
from foundry_bench.training.mixture import MixedStage
from foundry_bench.training.text_config import TextConfig
from foundry_bench.training.vla_stage import VLAStage
from foundry_bench.training.vlm_stage import VLMStage, train_vlm
from tests.data.corpora.files import write_jsonl
from tests.training.pairs import write_pairs
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

CONFIG = replace(TINY_TRAIN, samples=256, save_every=64, log_every=64, validate_every=256)
STOP = 10  # of 16 steps; the last state is that of step 8


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [
        f"the {thing} number {number} is on the table" for number in range(60) for thing in ("cup", "bowl")
    ]
    return write_jsonl(tmp_path_factory.mktemp("text") / "lines.jsonl", texts)


def beside(pairs: Path, lines: Path, streaming: bool = False, **changes: Any) -> Beside:
    fields = {"path": str(lines), "streaming": streaming, "held_out": 0.1}
    text = TextConfig(corpora=corpora_from({"lines": fields}), validation_blocks=4)
    usual = Beside(
        captions=1.0, captions_root=str(pairs), answer_tokens=8, text=0.5, text_config=text, block=16
    )
    return replace(usual, **changes)


def vla(config: Any = CONFIG) -> VLAStage:
    return VLAStage(config, TINY, ToyDataset())  # type: ignore[arg-type]


def test_nothing_beside_is_the_stage_itself() -> None:
    stage = vla()
    assert Beside().added_to("robot", stage, CONFIG) is stage


def test_steps_are_shared_by_weight_and_are_whole_batches(pairs: Path, lines: Path) -> None:
    mixed = beside(pairs, lines).added_to("robot", vla(), CONFIG)
    assert isinstance(mixed, MixedStage)
    seen = Counter(mixed.source_name(step) for step in range(4000))
    assert {name: seen[name] / 4000 for name in seen} == pytest.approx(
        {"robot": 0.4, "captions": 0.4, "text": 0.2}, abs=0.03
    )
    sizes = {"robot": "state", "captions": "answer_in", "text": "tokens"}
    for step in range(12):
        assert len(mixed.batch(step)[sizes[mixed.source_name(step)]]) == CONFIG.batch_size
    assert dict(mixed.identity()["mixture"])["weights.captions"] == 1.0
    assert set(Counter(source.name for source in mixed.sources)) == {"robot", "captions", "text"}


def test_only_what_is_asked_for_is_beside(pairs: Path, lines: Path) -> None:
    for left_out, names in (("text", ["robot", "captions"]), ("captions", ["robot", "text"])):
        without: dict[str, Any] = {left_out: 0.0}
        asked = replace(beside(pairs, lines), **without)
        mixed = asked.added_to("robot", vla(), CONFIG)
        assert isinstance(mixed, MixedStage)
        assert [source.name for source in mixed.sources] == names


def stopped(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    """Do the work, and kill it before a step."""
    update = loop.Trainer.update

    def dies(self: Any, batch: Any) -> Any:
        if self.step == STOP:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainer, "update", dies)
        work()


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for part in ("checkpoint", "state")
        for path in sorted((out / part).iterdir())
        if path.name != "text_cursors.json"  # how far back places are known depends on where a run began
    }


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
def test_a_policy_that_is_resumed_ends_with_the_same_bits(
    streaming: bool, tmp_path: Path, pairs: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(out: Path) -> None:
        other = beside(pairs, lines, streaming)
        loop.train(CONFIG, TINY, ToyDataset(), out, device="cpu", progress=False, beside=other)  # type: ignore[arg-type]

    work(tmp_path / "whole")
    stopped(monkeypatch, lambda: work(tmp_path / "killed"))
    assert contents(tmp_path / "killed") != contents(tmp_path / "whole")
    work(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert (tmp_path / "whole" / "state" / "text_cursors.json").exists() == streaming


def test_a_vision_language_model_that_is_resumed_ends_with_the_same_bits(
    tmp_path: Path, pairs: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(out: Path) -> None:
        other = beside(pairs, lines, captions=0.0)
        train_vlm(CONFIG, TINY, pairs, out, answer_tokens=8, beside=other, device="cpu", progress=False)

    work(tmp_path / "whole")
    stopped(monkeypatch, lambda: work(tmp_path / "killed"))
    work(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_another_share_is_another_run(tmp_path: Path, pairs: Path, lines: Path) -> None:
    config = replace(CONFIG, samples=32)

    def work(share: float) -> None:
        other = beside(pairs, lines, text=share)
        loop.train(config, TINY, ToyDataset(), tmp_path, device="cpu", progress=False, beside=other)  # type: ignore[arg-type]

    work(0.5)
    with pytest.raises(FoundryError, match=r"mixture\.weights\.text=0\.5, now it is 2\.0"):
        work(2.0)


def test_parts_of_a_batch_give_the_loss_of_the_whole(pairs: Path) -> None:
    """Answers are of different lengths, but each weighs the same: so parts weigh what they have of rows."""
    stage = VLMStage(CONFIG, TINY, pairs, 8)
    batch = stage.batch(0)
    lengths = (batch["answer_out"] != IGNORED).sum(1)
    assert len(lengths.unique()) > 1
    chance = torch.Generator()
    whole = stage.loss(batch, chance)
    parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 4), slice(4, 16))]
    losses = [stage.loss(part, chance) for part in parts]
    torch.testing.assert_close((4 * losses[0] + 12 * losses[1]) / 16, whole)


def test_answers_begin_and_end_with_the_end_token_and_lose_what_is_too_long(pairs: Path) -> None:
    stage = VLMStage(CONFIG, TINY, pairs, 8)
    source = stage.source
    end = stage.tokenizer.end
    made = source._answers(["red", "It is red. " * 20])
    short = stage.tokenizer.encode_text("red")
    assert made["answer_in"][0, : len(short) + 1].tolist() == [end, *short]
    assert made["answer_out"][0, : len(short) + 1].tolist() == [*short, end]
    assert (made["answer_out"][0, len(short) + 1 :] == IGNORED).all()
    assert (made["answer_out"][1] != IGNORED).sum() == 8
    assert made["answer_in"].shape == made["answer_out"].shape == (2, 8)


def test_pictures_of_other_cameras_are_left_out_and_none_is_refused(tmp_path: Path, pairs: Path) -> None:
    stage = VLMStage(CONFIG, TINY, pairs, 8)
    assert {stage.source.pairs[int(index)].camera for index in stage.source._order.frames} == {"agentview"}
    wrist = write_pairs(tmp_path / "wrist", cameras=("wrist",))
    with pytest.raises(FoundryError, match="no picture by any of the model's cameras"):
        VLMStage(CONFIG, TINY, wrist, 8)
    large = write_pairs(tmp_path / "large", size=48)
    with pytest.raises(FoundryError, match=r"pictures of 48 pixels, the model wants model\.image_size=32"):
        CaptionSource(large, TINY.cameras, 32, stage.tokenizer, answer_tokens=8, batch_size=4, seed=0)


def test_a_model_without_words_is_refused(pairs: Path, lines: Path) -> None:
    class Stage:
        model_config = ACTConfig()
        model = torch.nn.Linear(1, 1)

    with pytest.raises(FoundryError, match="cotrain: model act has no language model of ours"):
        beside(pairs, lines).added_to("robot", Stage(), CONFIG)  # type: ignore[arg-type]
    minilm = replace(TINY, text="minilm")
    Stage.model_config = minilm  # type: ignore[assignment]
    with pytest.raises(FoundryError, match=r"model\.text=minilm only reads them"):
        beside(pairs, lines).added_to("robot", Stage(), CONFIG)  # type: ignore[arg-type]


def test_views_that_no_stage_would_keep_are_refused(tmp_path: Path, pairs: Path, lines: Path) -> None:
    config = replace(CONFIG, feature_views=8)
    text = beside(pairs, lines).text_config or TextConfig()
    lm = LMConfig(vocab_size=300, width=32, heads=4, layers=1, hidden=48, context=16)
    with pytest.raises(
        FoundryError, match=r"llm\.feature_views=8: .* train\.feature_views is for the policy"
    ):
        train_language_model(config, lm, text, tmp_path / "llm", device="cpu", progress=False)
    with pytest.raises(
        FoundryError, match=r"vlm\.feature_views=8: .* train\.feature_views is for the policy"
    ):
        train_vlm(config, TINY, pairs, tmp_path / "vlm", device="cpu", progress=False)
    assert list(tmp_path.iterdir()) == []
    LLMStage(CONFIG, lm, text)


def test_a_run_from_before_there_were_other_models_is_gone_on_with(tmp_path: Path) -> None:
    """Its state names fewer keys of the model; what it did not know had the default."""
    config = replace(CONFIG, samples=64)
    loop.train(config, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)  # type: ignore[arg-type]
    path = tmp_path / "state" / "trainer.json"
    progress = json.loads(path.read_text())
    for key in ("architecture", "vision", "backbone", "action_tokenizer"):
        del progress["identity"]["model"][key]
    path.write_text(json.dumps(progress))
    loop.train(config, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)  # type: ignore[arg-type]
    with pytest.raises(FoundryError, match=r"model\.conditioning=layers, now it is pooled"):
        other = replace(TINY, conditioning="pooled")
        loop.train(config, other, ToyDataset(), tmp_path, device="cpu", progress=False)  # type: ignore[arg-type]
    with pytest.raises(FoundryError, match=r"model\.vision=stem, now it is vit"):
        other = replace(TINY, vision="vit")
        loop.train(config, other, ToyDataset(), tmp_path, device="cpu", progress=False)  # type: ignore[arg-type]
