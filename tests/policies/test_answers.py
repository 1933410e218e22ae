from __future__ import annotations

import pytest
import torch

from foundry_bench.policies.answers import IGNORED, answer, answer_loss, look
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.vla import VLA
from foundry_bench.policies.vlm import VLM

_SMALL = {
    "image_size": 32,
    "vocab_size": 40,
    "text_tokens": 6,
    "width": 32,
    "heads": 2,
    "hidden": 48,
    "layers": 2,
}


@pytest.fixture(params=[True, False], ids=["one stem", "a stem each"])
def model(request: pytest.FixtureRequest) -> VLM:
    torch.manual_seed(0)
    return VLM(VLAConfig(**_SMALL, share_stem=request.param, stem_channels=(8, 8, 16)))


def _questions(rows: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 40, (rows, 6), generator=generator)
    return {
        "images": torch.randint(0, 256, (rows, 32, 32, 3), generator=generator, dtype=torch.uint8),
        "camera": torch.arange(rows) % 2,
        "tokens": tokens,
        "token_mask": torch.ones_like(tokens, dtype=torch.bool),
    }


def test_a_vlm_has_the_weights_of_the_vla_of_the_same_seed() -> None:
    config = VLAConfig(**_SMALL)
    torch.manual_seed(3)
    whole = VLA(config).state_dict()
    torch.manual_seed(3)
    part = VLM(config).state_dict()
    assert {name.split(".")[0] for name in part} == {"language", "stems"}
    assert all(torch.equal(value, whole[name]) for name, value in part.items())


def test_a_picture_is_seen_as_the_policy_sees_it(model: VLM) -> None:
    """Each camera's tokens are those that the VLA's pass over all cameras has for it."""
    batch = _questions(4)
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    both = torch.stack([batch["images"], batch["images"].flip(0)], dim=1)
    for camera in range(2):
        stem = model.stems[0 if len(model.stems) == 1 else camera]
        if len(model.stems) == 1:
            tokens = stem(both, text.film)
            expected = tokens.unflatten(1, (2, -1))[:, camera]
            found = stem.one_camera(both[:, camera], text.film[:, camera], torch.full((4,), camera))
        else:
            expected = stem(both[:, camera : camera + 1], text.film[:, camera : camera + 1])
            found = stem.one_camera(both[:, camera], text.film[:, camera], torch.zeros(4, dtype=torch.int64))
        torch.testing.assert_close(found, expected)


def test_each_row_is_read_with_its_own_camera(model: VLM) -> None:
    batch = _questions(4)
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    together = look(model, batch["images"], batch["camera"], text)
    for row in range(4):
        pick = slice(row, row + 1)
        own = model.read_instructions(batch["tokens"][pick], batch["token_mask"][pick])
        alone = look(model, batch["images"][pick], batch["camera"][pick], own)
        for (keys, values), (key, value) in zip(together, alone, strict=True):
            torch.testing.assert_close(keys[pick], key)
            torch.testing.assert_close(values[pick], value)


def test_what_follows_an_answer_does_not_count(model: VLM) -> None:
    batch = _questions(3)
    batch["answer_in"] = torch.tensor([[1, 5, 6, 0], [1, 7, 0, 0], [1, 8, 9, 3]])
    batch["answer_out"] = torch.tensor([[5, 6, 1, IGNORED], [7, 1, IGNORED, IGNORED], [8, 9, 3, 1]])
    loss = answer_loss(model, batch)
    changed = dict(batch)
    changed["answer_in"] = torch.where(batch["answer_out"] == IGNORED, 30, batch["answer_in"])
    torch.testing.assert_close(answer_loss(model, changed), loss)
    # Each answer counts once, however long it is.
    alone = [
        answer_loss(model, {name: value[row : row + 1] for name, value in batch.items()}) for row in range(3)
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    assert answer_loss(model, batch, z_loss=0.1) > loss


def test_the_answer_is_the_most_likely_one_token_by_token(model: VLM) -> None:
    """With the cache of keys and values as without it."""
    batch = _questions(5)
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    told = answer(model, batch["images"], batch["camera"], text, start=1, end=1, longest=5)
    prefix = look(model, batch["images"], batch["camera"], text)
    given = torch.ones(5, 1, dtype=torch.int64)
    for _ in range(5):
        hidden, _ = model.language.read_text(given, 1, prefix)
        given = torch.cat([given, model.language.logits(hidden[:, -1]).argmax(-1)[:, None]], dim=1)
    for row in range(5):
        expected = given[row, 1:].tolist()
        expected = expected[: expected.index(1)] if 1 in expected else expected
        assert told[row] == expected


def test_a_model_learns_to_tell_pictures_apart(model: VLM) -> None:
    batch = _questions(4)
    batch["tokens"] = batch["tokens"][:1].expand(4, -1).contiguous()  # the same question of every picture
    batch["camera"] = torch.zeros(4, dtype=torch.int64)
    batch["answer_in"] = torch.tensor([[1, 5], [1, 6], [1, 7], [1, 8]])
    batch["answer_out"] = torch.tensor([[5, 1], [6, 1], [7, 1], [8, 1]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        answer_loss(model, batch).backward()
        optimizer.step()
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    assert answer(model, batch["images"], batch["camera"], text, 1, 1, 4) == [[5], [6], [7], [8]]
