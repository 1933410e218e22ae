"""The language model in its variants: grouped queries, prefixes, masks, sizes; and the VLA's, as it was."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.generate import generate
from foundry_bench.policies.language import LanguageModel
from foundry_bench.policies.language_checkpoint import TextModel
from foundry_bench.policies.lm_config import PRESETS, LMConfig, preset
from foundry_bench.policies.vla import VLA
from foundry_bench.training.recompute import recompute_blocks
from tests.policies.conftest import SMALL

TINY = LMConfig(vocab_size=50, width=32, heads=4, layers=3, hidden=48, context=16)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"kv_heads": 2},
    "one key head": {"kv_heads": 1, "qk_norm": True},
    "normalised": {"qk_norm": True, "rope_base": 500_000.0},
    "wide heads, untied": {"head_size": 12, "tied": False, "norm_eps": 1e-5},
}


def model(seed: int = 0, **changes: Any) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LanguageModel.from_config(replace(TINY, **changes)).eval()


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(seed))


variants = pytest.mark.parametrize("changes", list(VARIANTS.values()), ids=list(VARIANTS))


@variants
def test_reading_on_after_a_prefix_is_reading_it_all(changes: dict[str, Any]) -> None:
    language, text = model(**changes), tokens(2, 11)
    whole, whole_cache = language.read_text(text, 3)
    _, cache = language.read_text(text[:, :4], 3)
    middle, cache = language.read_text(text[:, 4:10], 7, cache)
    last, cache = language.read_text(text[:, 10:], 13, cache)
    torch.testing.assert_close(torch.cat([middle, last], 1), whole[:, 4:], atol=1e-5, rtol=1e-4)
    for (k, v), (k_whole, v_whole) in zip(cache, whole_cache, strict=True):
        assert k.shape == (2, language.kv_heads, 11, language.head_size)
        torch.testing.assert_close(k, k_whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(v, v_whole, atol=1e-5, rtol=1e-4)


@variants
def test_padding_on_the_left_changes_nothing(changes: dict[str, Any]) -> None:
    language, text = model(**changes), tokens(1, 6)
    padded = torch.cat([tokens(1, 4, seed=9), text], dim=1)
    mask = torch.tensor([[False] * 4 + [True] * 6])
    hidden, _ = language.read_text(padded, mask=mask)
    assert torch.isfinite(hidden).all()
    torch.testing.assert_close(hidden[:, 4:], language.read_text(text)[0], atol=1e-5, rtol=1e-4)
    other = torch.cat([tokens(1, 4, seed=5), text], dim=1)
    torch.testing.assert_close(language.read_text(other, mask=mask)[0][:, 4:], hidden[:, 4:])


@variants
def test_answers_follow_image_tokens(changes: dict[str, Any]) -> None:
    """Causal among themselves, and dependent on the image tokens and the text before."""
    language = model(**changes)
    _, question = language.read_text(tokens(2, 5), -5)
    image = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    prefix = language.read_block(image, question)
    assert prefix[0][0].shape == (2, language.kv_heads, 8, language.head_size)
    answer = tokens(2, 4, seed=1)
    hidden, _ = language.read_text(answer, 1, prefix)
    changed = torch.cat([answer[:, :2], (answer[:, 2:] + 1) % 50], dim=1)
    again, _ = language.read_text(changed, 1, prefix)
    torch.testing.assert_close(again[:, :2], hidden[:, :2])
    assert (again[:, 2:] - hidden[:, 2:]).abs().max() > 1e-3
    elsewhere, _ = language.read_text(answer, 1, language.read_block(image + 1, question))
    assert (elsewhere - hidden).abs().max() > 1e-3


@variants
def test_a_block_read_to_the_end_has_the_keys_and_values_of_read_block(changes: dict[str, Any]) -> None:
    language = model(**changes)
    _, question = language.read_text(tokens(2, 5), -5)
    image = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    hidden = language.read_block_to_the_end(image, question)
    assert hidden.shape == (2, 3, 32)
    swapped = language.read_block_to_the_end(image.flip(1), question)
    torch.testing.assert_close(swapped.flip(1), hidden, atol=1e-5, rtol=1e-4)  # no order, no position
    embedded = language.read_embeddings(language.embedding(tokens(2, 5)), -5)
    torch.testing.assert_close(embedded[1][-1], question[-1])


@variants
def test_half_precision_is_read_and_generated(changes: dict[str, Any]) -> None:
    language = model(**changes)
    text = tokens(2, 9)
    expected = language.read_text(text)[0]
    language = language.to(torch.bfloat16)
    hidden, cache = language.read_text(text)
    assert hidden.dtype == cache[0][0].dtype == torch.bfloat16
    assert (hidden.float() - expected).abs().mean() < 0.05
    assert len(generate(language, [[1, 2], [3]], max_tokens=3)[1]) == 3


def test_grouped_queries_are_repeated_keys_and_values() -> None:
    grouped, full = model(kv_heads=2), model(seed=1)
    state = grouped.state_dict()
    for number in range(TINY.layers):
        q, k, v = state[f"blocks.{number}.qkv.weight"].unflatten(0, (-1, 8)).split([4, 2, 2])
        repeated = [q, k.repeat_interleave(2, dim=0), v.repeat_interleave(2, dim=0)]
        state[f"blocks.{number}.qkv.weight"] = torch.cat(repeated).flatten(0, 1)
    full.load_state_dict(state)
    text = tokens(2, 9)
    torch.testing.assert_close(grouped.read_text(text)[0], full.read_text(text)[0], atol=1e-5, rtol=1e-4)


def test_normalised_queries_make_their_scale_irrelevant() -> None:
    language, text = model(qk_norm=True), tokens(2, 9)
    before = language.read_text(text)[0]
    with torch.no_grad():
        for block in language.stack:
            block.qkv.weight[: 2 * 32] *= 7.0  # queries and keys, not values
    torch.testing.assert_close(language.read_text(text)[0], before, atol=1e-4, rtol=1e-3)


def test_an_untied_head_is_another_matrix() -> None:
    language, text = model(tied=False), tokens(2, 9)
    before = language.logits(language.read_text(text)[0])
    assert before.shape == (2, 9, 50)
    with torch.no_grad():
        language.output.weight.zero_()
    assert not language.logits(language.read_text(text)[0]).any()
    assert "output.weight" not in model().state_dict()


@variants
def test_checkpointed_activations_give_the_same_gradients(changes: dict[str, Any]) -> None:
    language, text = model(**changes).train(), tokens(2, 9)

    def gradients() -> list[Tensor]:
        language.zero_grad()
        language.logits(language.read_text(text)[0]).square().mean().backward()
        return [p.grad.clone() for p in language.parameters() if p.grad is not None]

    plain = gradients()
    assert recompute_blocks(language) == len(language.stack)
    again = gradients()
    assert len(plain) == len(again) == len(list(language.parameters()))
    for ours, theirs in zip(again, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


@variants
def test_every_parameter_gets_a_gradient(changes: dict[str, Any]) -> None:
    language = model(**changes).train()
    language.logits(language.read_text(tokens(2, 9))[0]).square().mean().backward()
    assert [name for name, parameter in language.named_parameters() if parameter.grad is None] == []


#: Counted by hand from the shapes: tables + layers x (attention + feed-forward + norms) + final norm.
COUNTS = {"nano": 1_066_112, "11m": 10_916_640, "100m": 100_291_200, "410m": 411_619_328, "1b": 1_439_801_344}


@pytest.mark.parametrize("name", list(PRESETS))
def test_sizes_have_the_parameters_that_their_names_say(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        built = TextModel(config)
    count = sum(parameter.numel() for parameter in built.parameters())
    assert count == config.parameters() == COUNTS[name]
    said = {"nano": 1e6, "11m": 11e6, "100m": 100e6, "410m": 410e6, "1b": 1.4e9}[name]
    assert count == pytest.approx(said, rel=0.07)


def test_the_large_size_is_the_one_that_was_asked_for() -> None:
    config = preset("1b")
    assert (config.width, config.layers, config.heads) == (2048, 24, 16)


def test_a_config_survives_plain_values_and_starts_from_a_size() -> None:
    config = LMConfig.from_dict({"preset": "11m", "context": 128, "kv_heads": 2})
    assert config == replace(preset("11m"), context=128, kv_heads=2)
    assert LMConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"preset": "11M"}, "model.preset=11M is unknown: did you mean '11m'"),
        ({"width": 100, "heads": 3}, "model.width=100 cannot be split"),
        ({"kv_heads": 3}, "model.kv_heads=3 does not divide model.heads=4"),
        ({"head_size": 7}, "model.head_size=7 must be even"),
        ({"kv_heads": -1}, "model.kv_heads=-1 must not be negative"),
        ({"layers": 0}, "model.layers=0 must be at least 1"),
        ({"rope_base": 0.0}, "model.rope_base=0.0 must be above 0"),
        ({"embedding_std": -1.0}, "model.embedding_std=-1.0"),
        ({"leyers": 2}, "model.leyers is not a known key: did you mean 'layers'"),
        ({"tied": 1}, "model.tied=1 must be of type bool"),
    ],
)
def test_impossible_shapes_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        LMConfig.from_dict(values)


def test_configs_and_corpora_are_read_without_torch() -> None:
    modules = "foundry_bench.policies.lm_config, foundry_bench.training.text_config"
    heavy = "{'torch', 'transformers', 'datasets', 'mujoco'}"
    code = f"import sys, {modules}; print('loaded:', *sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def batch_of(config: VLAConfig) -> dict[str, Tensor]:
    chance, size = torch.Generator().manual_seed(3), config.image_size
    return {
        "images": torch.randint(0, 256, (2, 2, size, size, 3), dtype=torch.uint8, generator=chance),
        "state": torch.randn(2, 8, generator=chance),
        "tokens": torch.randint(0, 300, (2, 24), generator=chance),
        "token_mask": torch.ones(2, 24, dtype=torch.bool),
        "inverse": torch.arange(2),
        "actions": torch.rand(2, 8, 7, generator=chance),
        "action_mask": torch.ones(2, 8, dtype=torch.bool),
    }


@pytest.mark.parametrize(
    ("config", "losses"),
    [
        (VLAConfig(), ["0x1.669e38p+0", "0x1.3a5182p+0", "0x1.001056p+0"]),
        (SMALL, ["0x1.5dfdb6p+0", "0x1.5dd446p+0", "0x1.274762p+0"]),
        (replace(SMALL, head="regression"), ["0x1.0649a2p-1", "0x1.b8ace8p-2", "0x1.7745fcp-2"]),
    ],
)
def test_the_vla_has_the_numbers_it_had(config: VLAConfig, losses: list[str]) -> None:
    """Of the language model without variants: three steps, losses as they were before there were any."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vla = VLA(config)
    optimizer = torch.optim.SGD(vla.parameters(), lr=0.05)
    batch = batch_of(config)
    for step, expected in enumerate(losses):
        loss = vla.loss(batch, torch.Generator().manual_seed(step))
        assert loss.item() == pytest.approx(float.fromhex(expected), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    "change",
    [
        {"kv_heads": 2},
        {"head_size": 24, "qk_norm": True},
        {"kv_heads": 1, "rope_base": 1e5, "norm_eps": 1e-5},
    ],
)
def test_a_vla_takes_the_variants(change: dict[str, Any]) -> None:
    config = VLAConfig.from_dict({**SMALL.to_dict(), **change})
    vla = VLA(config)
    loss = vla.loss(batch_of(config), torch.Generator().manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss)
    assert [name for name, parameter in vla.named_parameters() if parameter.grad is None] == []


def test_a_vla_takes_the_tensors_of_a_language_model_by_name() -> None:
    config = replace(SMALL, kv_heads=2, qk_norm=True)
    text = TextModel(
        LMConfig(
            vocab_size=config.vocab_size, width=config.width, heads=config.heads, layers=config.layers,
            hidden=config.hidden, kv_heads=2, qk_norm=True,
        )
    )  # fmt: skip
    vla = VLA(config)
    rest = vla.load_state_dict(text.state_dict(), strict=False)
    assert rest.unexpected_keys == []
    assert not [name for name in rest.missing_keys if name.startswith("language.")]
    assert torch.equal(vla.language.embedding.weight, text.language.embedding.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kv_heads": 3}, "model.kv_heads=3 does not divide"),
        ({"norm_eps": 0.0}, "model.norm_eps=0.0 must be above 0"),
    ],
)
def test_a_vla_refuses_heads_that_cannot_be(change: dict[str, Any], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        VLAConfig.from_dict(change)
