"""Every head on other encoders and on pretrained backbones; questions about pictures with other encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_tokens import fit_action_tokenizer
from foundry_bench.policies.answers import answer, answer_loss, look
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.build import give_action_tokenizer, make_model, needs_action_tokenizer
from foundry_bench.policies.checkpoint import Checkpoint, save_checkpoint
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vla_policy import VLAPolicy
from foundry_bench.policies.vlm import VLM, make_vlm
from foundry_bench.policies.vlm_checkpoint import load_vlm, save_vlm
from tests.policies.conftest import SMALL, TEXTS, observations, smooth_chunks
from tests.policies.test_encoder_vla import batch_of, built, needs_minilm, policy_of
from tests.policies.tiny_models import save_lm, save_tower
from tests.policies.tiny_models import save_vlm as save_tiny_vlm

VIT: dict[str, Any] = {"vision": "vit", "vit_width": 48, "vit_heads": 2, "vit_layers": 1}
HEADS: dict[str, dict[str, Any]] = {
    "flow": {},
    "diffusion": {"head": "diffusion"},
    "regression": {"head": "regression"},
    "bins": {"head": "tokens", "action_vocab": 64},
    "dct": {"head": "tokens", "action_tokenizer": "dct"},
}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VLAConfig]:
    """The small config with other encoders, and on backbones with fewer key heads than query heads."""
    root = tmp_path_factory.mktemp("bodies")
    qwen, llama = save_tiny_vlm(root / "qwen3_vl", "qwen3_vl"), save_lm(root / "llama")
    tower = save_tower(root / "siglip", "siglip")
    return {
        "vit": replace(SMALL, **VIT),
        "siglip": replace(SMALL, vision="pretrained", vision_path=str(tower), vision_tuning="frozen"),
        "qwen3_vl": replace(SMALL, backbone="vlm", backbone_path=str(qwen), text_tokens=32),
        "llama": replace(SMALL, backbone="lm", backbone_path=str(llama), text_tokens=32, **VIT),
    }


def with_tokens(config: VLAConfig) -> Any:
    """A model with its action tokenizer, where it has such."""
    model: Any = built(config)
    if needs_action_tokenizer(config):
        chunks = smooth_chunks(config, 200)
        give_action_tokenizer(
            model, fit_action_tokenizer(config, chunks, np.ones(chunks.shape[:2], dtype=bool))
        )
    return model


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("body", ["vit", "qwen3_vl", "llama"])
def test_every_head_learns_on_every_body(bodies: dict[str, VLAConfig], body: str, head: str) -> None:
    config = replace(bodies[body], **HEADS[head])
    model = with_tokens(config).train()
    batch = batch_of(config)
    batch["actions"] = torch.from_numpy(smooth_chunks(config, 2))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        loss = model.loss(batch, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("body", ["siglip", "qwen3_vl", "llama"])
def test_a_checkpoint_of_every_head_stands_alone(
    bodies: dict[str, VLAConfig], body: str, head: str, tmp_path: Path
) -> None:
    config = replace(bodies[body], **HEADS[head])
    made = policy_of(config, with_tokens(config))
    save_checkpoint(
        tmp_path / "checkpoint",
        Checkpoint(config, made.model.state_dict(), made.normalizer, made.tokenizer, {}, made.model.assets),
    )
    loaded = load_policy(tmp_path / "checkpoint", device="cpu")
    assert isinstance(loaded, VLAPolicy)
    assert loaded.model.assets == made.model.assets
    everything = observations(config, 5)
    chunks = made.predict(everything, range(5))
    np.testing.assert_array_equal(loaded.predict(everything, range(5)), chunks)
    alone = {key: value[3:4] for key, value in everything.items()}
    np.testing.assert_array_equal(made.predict(alone, [3]), chunks[3:4])


@pytest.mark.parametrize("head", ["diffusion", "bins", "dct"])
@pytest.mark.parametrize("body", ["qwen3_vl", "llama"])
def test_no_head_reads_a_backbones_padding(bodies: dict[str, VLAConfig], body: str, head: str) -> None:
    short = replace(bodies[body], **HEADS[head])
    long = replace(short, text_tokens=45)
    model, roomy = with_tokens(short), with_tokens(long)
    roomy.load_state_dict(model.state_dict())
    everything = observations(short, 3)
    a = policy_of(short, model).predict(everything, range(3))
    b = policy_of(long, roomy).predict(everything, range(3))
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [{"conditioning": "pooled"}, {"kv_heads": 2}, {"head_size": 24, "qk_norm": True, "rope_base": 500.0}],
    ids=["pooled", "grouped", "other-stack"],
)
def test_the_stacks_options_go_with_other_encoders(
    bodies: dict[str, VLAConfig], change: dict[str, Any]
) -> None:
    config = replace(bodies["vit"], **change)
    model: Any = built(config).train()
    model.loss(batch_of(config), torch.Generator().manual_seed(0)).backward()
    unread = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unread == set()
    language = model.language
    assert language.kv_heads == (change.get("kv_heads") or 4)
    assert hasattr(language.blocks[0], "q_norm") == config.qk_norm
    policy, everything = policy_of(config), observations(config, 3)
    chunks = policy.predict(everything, range(3))
    for key in ("agentview", "wrist", "state", "instruction"):
        changed = {**everything, key: everything[key][::-1]}
        assert np.abs(policy.predict(changed, range(3)) - chunks).max() > 1e-4, key


def test_a_pretrained_backbone_is_not_pooled(bodies: dict[str, VLAConfig]) -> None:
    with pytest.raises(FoundryError, match=r"model.conditioning=pooled goes with model.backbone=own"):
        replace(bodies["qwen3_vl"], conditioning="pooled")


@pytest.mark.parametrize("body", ["vit", "siglip"])
def test_a_picture_has_the_tokens_that_the_policy_sees_of_its_camera(
    bodies: dict[str, VLAConfig], body: str
) -> None:
    model: Any = built(bodies[body])
    batch = batch_of(bodies[body])
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    with torch.no_grad():
        every = torch.cat(model.image_tokens(batch["images"], text), dim=1).unflatten(1, (2, -1))
        for camera in (torch.tensor([0, 1]), torch.tensor([1, 0])):
            rows = torch.arange(2)
            found = model.picture_tokens(batch["images"][rows, camera], camera, text)
            torch.testing.assert_close(found, every[rows, camera], atol=1e-5, rtol=1e-5)


def questions(config: VLAConfig) -> dict[str, torch.Tensor]:
    batch = batch_of(config)
    return {
        "images": batch["images"][:, 0],
        "camera": torch.tensor([0, 1]),
        "tokens": batch["tokens"],
        "token_mask": batch["token_mask"],
        "answer_in": torch.tensor([[1, 5], [1, 6]]),
        "answer_out": torch.tensor([[5, 1], [6, 1]]),
    }


@pytest.mark.parametrize("body", ["vit", "siglip"])
def test_questions_are_learned_beside_actions_with_other_encoders(
    bodies: dict[str, VLAConfig], body: str
) -> None:
    model: Any = built(bodies[body]).train()
    batch = questions(bodies[body])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        answer_loss(model, batch).backward()
        optimizer.step()
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    assert answer(model, batch["images"], batch["camera"], text, 1, 1, 3) == [[5], [6]]


@pytest.mark.parametrize("body", ["vit", "siglip"])
def test_a_vlm_with_another_encoder_is_the_vlas_and_is_read_back(
    bodies: dict[str, VLAConfig], body: str, tmp_path: Path
) -> None:
    config = replace(bodies[body], head="tokens")  # what acts leaves no file in a folder of this stage
    torch.manual_seed(3)
    whole = make_model(config).state_dict()
    torch.manual_seed(3)
    model = make_vlm(config)
    assert isinstance(model, VLM)
    part = model.state_dict()
    assert not {name.split(".")[0] for name in part} & {"state", "expert", "head", "stems"}
    assert all(torch.equal(value, whole[name]) for name, value in part.items())
    tokenizer = TextTokenizer.train(TEXTS, config.vocab_size, config.text_tokens)
    save_vlm(tmp_path / "vlm", config, part, tokenizer, {}, model.assets)
    card = (tmp_path / "vlm" / "README.md").read_text()
    assert ("pretrained parts" in card) == (body == "siglip")
    checkpoint = load_vlm(tmp_path / "vlm")
    loaded, batch = checkpoint.model, questions(config)
    upright = batch["images"].numpy()[:, ::-1]  # a view with a negative stride
    told = checkpoint.answer(upright, "wrist", TEXTS[:2], 3)
    assert told == checkpoint.answer(upright.copy(), "wrist", TEXTS[:2], 3)
    with torch.no_grad():
        seen, again = (
            look(
                each.eval(),
                batch["images"],
                batch["camera"],
                each.read_instructions(batch["tokens"], batch["token_mask"]),
            )
            for each in (model, loaded)
        )
    assert all(torch.equal(k, a) and torch.equal(v, b) for (k, v), (a, b) in zip(seen, again, strict=True))


def test_what_cannot_write_words_is_no_vlm(bodies: dict[str, VLAConfig]) -> None:
    with pytest.raises(FoundryError, match=r"answers with our own language model, model.backbone=vlm has"):
        make_vlm(bodies["qwen3_vl"])
    with pytest.raises(FoundryError, match=r"model.text=minilm only reads them; use model.text=own"):
        make_vlm(replace(SMALL, text="minilm"))
    with pytest.raises(FoundryError, match=r"sees one picture, model.observation_steps=2"):
        make_vlm(replace(SMALL, observation_steps=2))


@needs_minilm
def test_action_tokens_go_with_minilm() -> None:
    config = replace(SMALL, text="minilm", head="tokens", action_vocab=64)
    model = with_tokens(config)
    chunks = policy_of(config, model).predict(observations(config, 3), range(3))
    assert np.isfinite(chunks).all()
    assert set(model.assets) == {"action_tokenizer.json"}
