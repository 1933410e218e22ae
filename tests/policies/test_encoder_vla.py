"""The small stack with other encoders: what is trained, kept and saved; and the default model as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies import minilm
from foundry_bench.policies.action_expert import ActionExpert
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.build import make_model, make_tokenizer
from foundry_bench.policies.checkpoint import Checkpoint, save_checkpoint
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.encoder_vla import EncoderVLA
from foundry_bench.policies.language import LanguageModel, init_linear
from foundry_bench.policies.minilm import MiniLM
from foundry_bench.policies.normalization import Normalizer
from foundry_bench.policies.pretrained_tokenizer import PretrainedTokenizer
from foundry_bench.policies.vision import Stem
from foundry_bench.policies.vla import VLA
from foundry_bench.policies.vla_policy import VLAPolicy
from tests.policies.conftest import SMALL, TEXTS, observations, statistics
from tests.policies.test_vision_encoders import needs_efficientnet
from tests.policies.tiny_models import save_tower


def has_minilm() -> bool:
    try:
        minilm.find_folder()
    except FoundryError:
        return False
    return True


needs_minilm = pytest.mark.skipif(not has_minilm(), reason="pip install .[pretrained]")
CONFIGS = [
    pytest.param({"vision": "vit", "vit_width": 48, "vit_heads": 2, "vit_layers": 2}, id="vit"),
    pytest.param({"vision": "vit", "vision_pixels": 64, "vision_shuffle": 2}, id="vit-shuffled"),
    pytest.param({"vision": "pretrained"}, id="siglip"),
    pytest.param({"vision": "pretrained", "vision_tuning": "frozen"}, id="siglip-frozen"),
    pytest.param({"vision": "efficientnet_lite0"}, marks=needs_efficientnet, id="efficientnet"),
    pytest.param({"text": "minilm"}, marks=needs_minilm, id="stem-minilm"),
    pytest.param(
        {"vision": "efficientnet_lite0", "vision_tuning": "frozen", "text": "minilm"},
        marks=[needs_efficientnet, needs_minilm],
        id="efficientnet-minilm",
    ),
]


def of(change: dict[str, Any], folder: Path) -> VLAConfig:
    path = str(save_tower(folder / "siglip", "siglip")) if change.get("vision") == "pretrained" else ""
    return replace(SMALL, vision_path=path, **change)


def built(config: VLAConfig, seed: int = 0) -> VLA:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make_model(config)
    torch.nn.init.normal_(model.expert.output.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return model


def policy_of(config: VLAConfig, model: VLA | None = None) -> VLAPolicy:
    normalizer = Normalizer.fit(
        {"state": statistics(config.state_dim), "action": statistics(config.action_dim)},
        "quantile",
        "quantile",
    )
    return VLAPolicy(model or built(config), normalizer, make_tokenizer(config, TEXTS), device="cpu")


def batch_of(config: VLAConfig, texts: Sequence[str] = TEXTS[:2]) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(5)
    views, size = len(config.cameras) * config.observation_steps, config.image_size
    tokens, mask = make_tokenizer(config, TEXTS).encode(texts)
    return {
        "images": torch.randint(0, 256, (2, views, size, size, 3), dtype=torch.uint8, generator=chance),
        "state": torch.randn(2, config.state_dim, generator=chance),
        "tokens": torch.from_numpy(tokens),
        "token_mask": torch.from_numpy(mask),
        "inverse": torch.arange(2),
        "actions": torch.rand(2, config.horizon, config.action_dim, generator=chance),
        "action_mask": torch.ones(2, config.horizon, dtype=torch.bool),
    }


@pytest.mark.parametrize("change", CONFIGS)
def test_whatever_is_trained_gets_a_gradient_and_nothing_else(change: dict[str, Any], tmp_path: Path) -> None:
    config = of(change, tmp_path)
    model = built(config).train()
    model.loss(batch_of(config), torch.Generator().manual_seed(0)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {
        name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.requires_grad
    }
    expected = {"vision"} if config.vision_tuning == "frozen" else set()
    assert frozen == expected | ({"reader"} if config.text == "minilm" else set())


@pytest.mark.parametrize("change", CONFIGS)
def test_a_loaded_policy_predicts_what_the_saved_one_did(change: dict[str, Any], tmp_path: Path) -> None:
    config = of(change, tmp_path)
    made = policy_of(config)
    save_checkpoint(
        tmp_path / "checkpoint",
        Checkpoint(config, made.model.state_dict(), made.normalizer, made.tokenizer, {}, made.model.assets),
    )
    for file in (tmp_path / "siglip").glob("*"):  # a checkpoint needs nothing of where its parts came from
        file.unlink()
    loaded = load_policy(tmp_path / "checkpoint", device="cpu")
    everything = observations(config, 5)
    chunks = made.predict(everything, range(5))
    np.testing.assert_array_equal(loaded.predict(everything, range(5)), chunks)
    assert chunks.std() > 0.05
    other = {**everything, "instruction": [TEXTS[2]] * 5}
    assert np.abs(made.predict(other, range(5)) - chunks).max() > 1e-4  # it reads the instruction
    other = {**everything, "agentview": everything["agentview"][::-1].copy()}
    assert np.abs(made.predict(other, range(5)) - chunks).max() > 1e-4  # and the images


@pytest.mark.parametrize("change", CONFIGS)
def test_a_row_has_the_same_bits_whatever_its_neighbours(change: dict[str, Any], tmp_path: Path) -> None:
    config = of(change, tmp_path)
    policy = policy_of(config)
    everything = observations(config, 6)
    together = policy.predict(everything, range(6))
    for row in (0, 4):
        alone = {key: value[row : row + 1] for key, value in everything.items()}
        np.testing.assert_array_equal(policy.predict(alone, [row]), together[row : row + 1])


@pytest.mark.parametrize(
    "change", [{}, {"share_stem": False}, {"vision": "vit"}], ids=["stem", "two-stems", "vit"]
)
def test_several_time_steps_are_told_apart(change: dict[str, Any]) -> None:
    config = replace(SMALL, observation_steps=2, **change)
    model, batch = built(config), batch_of(config)
    assert batch["images"].shape[1] == 4
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    with torch.no_grad():
        prefix = model.encode(batch["images"], batch["state"], text)
        swapped = model.encode(batch["images"][:, [1, 0, 2, 3]], batch["state"], text)
    one = replace(config, observation_steps=1)
    single = built(one).encode(batch["images"][:, ::2], batch["state"], built(one).read_instructions(
        batch["tokens"], batch["token_mask"]
    ))  # fmt: skip
    image_tokens = single[0][0].shape[2] - config.text_tokens - 1
    assert prefix[0][0].shape[2] == config.text_tokens + 2 * image_tokens + 1
    assert (prefix[-1][0] - swapped[-1][0]).abs().max() > 1e-3


@needs_minilm
def test_minilm_reads_a_distinct_instruction_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MiniLM(pretrained=True).train()
    tokenizer = minilm.minilm_tokenizer(24)
    calls: list[int] = []
    forward = reader.bert.forward
    monkeypatch.setattr(reader.bert, "forward", lambda **x: calls.append(1) or forward(**x))
    tokens, mask = (torch.from_numpy(array) for array in tokenizer.encode([TEXTS[0], TEXTS[1], TEXTS[0]]))
    first = reader(tokens, mask)
    assert len(calls) == 2
    assert torch.equal(reader(tokens, mask), first)
    assert len(calls) == 2
    assert torch.equal(first[0], first[2])
    assert not first[~mask].any()
    assert first[mask].std() > 0.1


@needs_minilm
def test_minilms_features_have_the_same_bits_whoever_asks_first() -> None:
    """Training under autocast or an evaluation in fp32: after a resume it may be the other one."""
    tokens, mask = (torch.from_numpy(array) for array in minilm.minilm_tokenizer(24).encode(TEXTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = MiniLM(pretrained=True)(tokens, mask)
    assert torch.equal(trained, MiniLM(pretrained=True)(tokens, mask))


@needs_minilm
def test_a_tokenizer_of_more_words_than_minilm_knows_is_refused() -> None:
    words = json.loads(minilm.minilm_tokenizer(24).to_json())
    words["added_tokens"].append({**words["added_tokens"][-1], "content": "[FAR]", "id": 40_000})
    with pytest.raises(FoundryError, match=r"mine\.json has 3\d+ tokens, MiniLM embeds 30522"):
        minilm.minilm_tokenizer(24, json.dumps(words), "mine.json")


@needs_minilm
def test_a_model_that_has_predicted_can_still_be_trained() -> None:
    config = replace(SMALL, text="minilm")
    policy = policy_of(config)
    policy.predict(observations(config, 2), range(2))
    policy.model.loss(batch_of(config), torch.Generator().manual_seed(0)).backward()
    assert policy.model.read.weight.grad.abs().max() > 0  # type: ignore[union-attr, operator]


@needs_minilm
def test_minilms_features_do_not_depend_on_the_padding_and_know_what_words_mean() -> None:
    reader = MiniLM(pretrained=True)

    def sentence(text: str, length: int) -> torch.Tensor:
        tokens, mask = (torch.from_numpy(array) for array in minilm.minilm_tokenizer(length).encode([text]))
        return reader(tokens, mask)[0, : int(mask.sum())].mean(dim=0)

    torch.testing.assert_close(sentence(TEXTS[1], 12), sentence(TEXTS[1], 40), atol=1e-5, rtol=1e-4)
    near, far = (
        torch.cosine_similarity(sentence("open the drawer", 16), sentence(other, 16), dim=0)
        for other in ("pull the drawer open", "turn on the stove")
    )
    assert near > 0.8 > 0.5 > far


@needs_minilm
def test_the_pretrained_tokenizer_ends_every_text_and_says_what_it_cuts() -> None:
    tokenizer = minilm.minilm_tokenizer(6)
    ids, mask = tokenizer.encode(["open the drawer"])
    assert ids[0, 0] == 101
    assert ids[0, mask[0]][-1] == 102
    with pytest.warns(UserWarning, match="has 10 tokens and is cut to 4"):
        ids, mask = tokenizer.encode([TEXTS[0]])
    assert mask.all()
    assert ids[0, -1] == 102
    with pytest.raises(FoundryError, match=r"model.text_tokens=2 leaves no room"):
        minilm.minilm_tokenizer(2)
    with pytest.raises(FoundryError, match=r"somewhere\.json is not a tokenizer"):
        PretrainedTokenizer("{", 6, "", "", "somewhere.json")


@pytest.mark.parametrize("share", [True, False])
def test_the_default_model_is_built_in_the_order_it_always_was(share: bool) -> None:
    """Same chance, same weights: runs of the default model are comparable with earlier ones."""
    config = replace(SMALL, share_stem=share)
    torch.manual_seed(0)
    model = make_model(config)
    torch.manual_seed(0)
    parts: dict[str, torch.nn.Module] = {
        "language": LanguageModel(config.vocab_size, config.width, config.heads, config.layers, config.hidden)
    }
    for number, cameras in enumerate([2] if share else [1, 1]):
        parts[f"stems.{number}"] = Stem(
            config.image_size, config.stem_channels, config.width, config.width, cameras
        )
    parts["state"] = torch.nn.Linear(config.state_dim, config.width)
    init_linear(parts["state"])
    parts["expert"] = ActionExpert(
        action_dim=7, horizon=8, width=48, hidden=64, heads=4, head_size=16, layers=2, timed=True
    )
    expected = {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    found = model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.assets == {}
    assert not isinstance(model, EncoderVLA)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision": "vitt"}, "model.vision='vitt' is unknown: did you mean 'vit'"),
        ({"vision": "pretrained"}, "needs model.vision_path"),
        ({"vision_path": "x/y"}, "is read by model.vision=pretrained only"),
        ({"vision": "vit", "vision_tuning": "frozen"}, "would keep the untrained weights"),
        ({"vision": "vit", "vit_width": 100}, "model.vit_width=100"),
        ({"vision": "vit", "vit_patch": 7}, "model.vit_patch=7 does not divide the image's 96 pixels"),
        ({"backbone": "vlm"}, "needs model.backbone_path"),
        ({"backbone_path": "x/y"}, "is not read by model.backbone=own"),
        ({"tuning": "lora"}, "model.tuning=lora is for pretrained backbones"),
        ({"expert_layers": 2}, "model.expert_layers=2 is for pretrained backbones"),
        ({"backbone": "vlm", "backbone_path": "x/y", "text": "minilm"}, "reads text by itself"),
        ({"backbone": "vlm", "backbone_path": "x/y", "vision": "vit"}, "has a vision tower of its own"),
        ({"backbone": "lm", "backbone_path": "x/y"}, "needs a vision encoder"),
        ({"pretrained_rate": 0.0}, "model.pretrained_rate=0.0"),
        ({"vision_pixels": -1}, "model.vision_pixels=-1"),
        ({"observation_steps": 0}, "model.observation_steps=0"),
        ({"vision_pixels": 128}, "model.vision_pixels=128 is not read by model.vision=stem"),
        ({"vision_shuffle": 2}, "model.vision_shuffle=2 is of the encoders"),
        ({"backbone": "vlm", "backbone_path": "x/y", "vision_shuffle": 2}, "model.vision_shuffle=2 is of"),
        ({"backbone_dtype": "bfloat16"}, "model.backbone_dtype=bfloat16 is for pretrained backbones"),
        (
            {"backbone": "vlm", "backbone_path": "x/y", "backbone_dtype": "bfloat16"},
            "model.backbone_dtype=bfloat16 would lose most updates of model.tuning=full",
        ),
        ({"cameras": ["agentview", 1]}, "model.cameras: 1 must be of type str"),
        ({"stem_channels": [0, 48, 96]}, "must be three multiples of 8"),
        ({"stem_channels": ["32", 48, 96]}, "model.stem_channels: '32' must be of type int"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        VLAConfig.from_dict(change)
