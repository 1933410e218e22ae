"""The parts of the model: causality, prefix reuse, draws that do not see each other, exact Euler steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_expert import ActionExpert
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.heads import FlowHead
from foundry_bench.policies.language import LanguageModel
from foundry_bench.policies.norm import RMSNorm
from foundry_bench.policies.vision import token_grid
from foundry_bench.policies.vla import VLA
from tests.policies.conftest import SMALL


def language_model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(vocab_size=50, width=32, heads=4, layers=3, hidden=48)


def test_text_is_causal() -> None:
    model = language_model()
    tokens = torch.randint(0, 50, (2, 9))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 50
    a, b = model.read_text(tokens)[0], model.read_text(changed)[0]
    torch.testing.assert_close(a[:, :5], b[:, :5])
    assert (a[:, 5:] - b[:, 5:]).abs().max() > 1e-3


def test_rotary_positions_are_relative() -> None:
    model = language_model()
    tokens = torch.randint(0, 50, (2, 9))
    torch.testing.assert_close(
        model.read_text(tokens, -9)[0], model.read_text(tokens, 100)[0], atol=1e-4, rtol=1e-4
    )


def test_the_language_model_can_learn_text() -> None:
    model = language_model()
    tokens = torch.arange(12)[None] * 3 % 50
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        logits = model.logits(model.read_text(tokens[:, :-1])[0])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_the_block_reads_its_prefix_and_the_prefix_does_not_read_it() -> None:
    model = language_model()
    tokens = torch.randint(0, 50, (2, 9))
    _, text = model.read_text(tokens, -9)
    block = torch.randn(2, 5, 32)
    keys_values = model.read_block(block, text)
    assert [kv[0].shape for kv in keys_values] == [(2, 4, 14, 8)] * 3
    for (k, _), (text_k, _) in zip(keys_values, text, strict=True):
        torch.testing.assert_close(k[:, :, :9], text_k)
    other = model.read_block(block, model.read_text((tokens + 1) % 50, -9)[1])
    assert (other[-1][0][:, :, 9:] - keys_values[-1][0][:, :, 9:]).abs().max() > 1e-3


@pytest.mark.parametrize("width", [8, 96])
def test_the_fast_norm_has_the_gradients_of_the_plain_one(width: int) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(width)
    norm.weight.data.uniform_(0.5, 1.5)
    x = torch.randn(3, 7, width, requires_grad=True)
    gradient = torch.randn(3, 7, width)
    fast = norm(x)
    plain = F.rms_norm(x, (width,), norm.weight, norm.eps)
    torch.testing.assert_close(fast, plain)
    for a, b in zip(
        torch.autograd.grad(fast, [x, norm.weight], gradient),
        torch.autograd.grad(plain, [x, norm.weight], gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def expert(layers: int = 2) -> tuple[ActionExpert, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = ActionExpert(
        action_dim=7, horizon=5, width=24, hidden=32, heads=2, head_size=8, layers=layers, timed=True
    )
    prefix = [(torch.randn(3, 2, 11, 8), torch.randn(3, 2, 11, 8)) for _ in range(layers)]
    return model, prefix


def test_draws_do_not_see_each_other() -> None:
    model, prefix = expert()
    actions, time = torch.randn(3, 4, 5, 7), torch.rand(3, 4)
    together = model(prefix, actions, time)
    for draw in range(4):
        alone = model(prefix, actions[:, draw : draw + 1], time[:, draw : draw + 1])
        torch.testing.assert_close(alone[:, 0], together[:, draw], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", range(1, 51))
def test_euler_lands_at_the_end_for_any_number_of_steps(steps: int) -> None:
    """A velocity field of straight lines to a goal is integrated exactly, whatever the step size."""
    goal = torch.randn(3, 1, 5, 7)
    times = []

    def straight(prefix: object, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        times.append(time[0, 0].item())
        return (goal - x) / (1 - time)[:, :, None, None]

    noise = torch.randn(3, 5, 7)
    end = FlowHead(steps, 1).sample(straight, [], noise)  # type: ignore[arg-type]
    torch.testing.assert_close(end, goal[:, 0], atol=1e-5, rtol=1e-5)
    assert times == pytest.approx([step / steps for step in range(steps)])


def test_masked_actions_do_not_count() -> None:
    torch.manual_seed(0)
    model = VLA(SMALL)
    batch = {
        "images": torch.randint(0, 256, (2, 2, 48, 48, 3), dtype=torch.uint8),
        "state": torch.randn(2, 8),
        "tokens": torch.randint(0, 300, (1, 24)),
        "token_mask": torch.ones(1, 24, dtype=torch.bool),
        "inverse": torch.zeros(2, dtype=torch.long),
        "actions": torch.rand(2, 8, 7),
        "action_mask": torch.arange(8)[None] < torch.tensor([[8], [3]]),
    }
    head = replace(SMALL, head="regression")
    model = VLA(head)
    loss = model.loss(batch, torch.Generator())
    changed = dict(batch, actions=batch["actions"].clone())
    changed["actions"][1, 3:] = 9.0
    torch.testing.assert_close(model.loss(changed, torch.Generator()), loss)


@pytest.mark.parametrize(("pixels", "grid"), [(32, 2), (48, 3), (96, 6), (128, 8), (224, 7), (256, 8)])
def test_tokens_stay_few_whatever_the_pixels(pixels: int, grid: int) -> None:
    assert token_grid(pixels, (32, 48, 96)) == grid
    model = VLA(replace(SMALL, image_size=pixels))
    with torch.no_grad():
        text = model.read_instructions(
            torch.zeros(1, 24, dtype=torch.long), torch.ones(1, 24, dtype=torch.bool)
        )
        images = torch.zeros(1, 2, pixels, pixels, 3, dtype=torch.uint8)
        prefix = model.encode(images, torch.zeros(1, 8), text)
    assert prefix[0][0].shape[2] == 24 + 2 * grid**2 + 1


def test_every_parameter_gets_a_gradient_but_the_skipped_ones() -> None:
    """Nothing is trained in vain; of the last layer the block needs keys and values only."""
    model = VLA(replace(SMALL, share_stem=False))
    batch = {
        "images": torch.randint(0, 256, (2, 2, 48, 48, 3), dtype=torch.uint8),
        "state": torch.randn(2, 8),
        "tokens": torch.randint(0, 300, (2, 24)),
        "token_mask": torch.ones(2, 24, dtype=torch.bool),
        "inverse": torch.arange(2),
        "actions": torch.rand(2, 8, 7),
        "action_mask": torch.ones(2, 8, dtype=torch.bool),
    }
    model.loss(batch, torch.Generator()).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 100}, "model.width=100"),
        ({"cameras": ()}, "at least one camera"),
        ({"cameras": ("wrist", "wrist")}, "each once"),
        ({"horizon": 0}, "model.horizon=0"),
        ({"action_normalization": "none"}, "model.action_normalization"),
        ({"image_size": 8}, "too small"),
        ({"stem_channels": (8, 8)}, "three multiples"),
        ({"heads": 0}, "model.heads=0"),
        ({"layers": "3"}, "must be of type int"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        VLAConfig.from_dict(change)
