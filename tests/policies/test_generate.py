"""Generation: the same text with and without the cache, alone and in a batch; chance belongs to a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.generate import generate
from foundry_bench.policies.language import LanguageModel
from tests.policies.test_language import VARIANTS, model, tokens

PROMPTS = [[3, 14, 15, 9, 2, 6], [27], [18, 28, 18]]


def lively(**changes: Any) -> LanguageModel:
    """A model whose text does not just repeat its last token, as that of fresh weights does."""
    language = model(**{"tied": False, **changes})
    chance = torch.Generator().manual_seed(0)
    for parameter in language.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3, generator=chance)
    return language


@pytest.mark.parametrize("changes", list(VARIANTS.values()), ids=list(VARIANTS))
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_cache_changes_no_text(changes: dict[str, Any], temperature: float) -> None:
    language = lively(**changes)
    settings: dict[str, Any] = {"max_tokens": 24, "temperature": temperature, "seeds": [1, 2, 3]}
    fast = generate(language, PROMPTS, **settings)
    slow = generate(language, PROMPTS, **settings, use_cache=False)
    assert fast == slow
    assert [len(text) for text in fast] == [24] * 3
    assert len({token for text in fast for token in text}) > 6


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_row_does_not_depend_on_its_neighbours(temperature: float) -> None:
    language = lively(kv_heads=2)
    settings: dict[str, Any] = {"max_tokens": 16, "temperature": temperature}
    together = generate(language, PROMPTS, seeds=[5, 6, 7], **settings)
    alone = [
        generate(language, [prompt], seeds=[seed], **settings)[0]
        for prompt, seed in zip(PROMPTS, (5, 6, 7), strict=True)
    ]
    assert together == alone


def test_greedy_takes_the_most_probable_token_of_a_plain_pass() -> None:
    language = lively()
    text = list(PROMPTS[0])
    for token in generate(language, [text], max_tokens=8)[0]:
        logits = language.logits(language.read_text(torch.tensor([text]))[0])
        assert token == int(logits[0, -1].argmax())
        text.append(token)


def test_seeds_decide_what_is_drawn() -> None:
    language = model()
    settings: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0}
    one, same, other = (generate(language, [[1, 2]], seeds=[seed], **settings)[0] for seed in (11, 11, 12))
    assert one == same != other
    state = torch.get_rng_state()
    generate(language, [[1, 2]], seeds=[11], **settings)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_row_stops_at_its_end_token_and_the_others_go_on() -> None:
    language = lively()
    free = generate(language, PROMPTS, max_tokens=16)
    end = free[0][4]
    stopped = generate(language, PROMPTS, max_tokens=16, end=end)
    for text, whole in zip(stopped, free, strict=True):
        expected = whole[: whole.index(end)] if end in whole else whole
        assert text == expected
    assert len(stopped[0]) <= 4 < len(max(stopped, key=len))


@pytest.mark.parametrize("use_cache", [True, False])
def test_text_goes_on_after_an_image(use_cache: bool) -> None:
    language = lively(kv_heads=2)
    _, question = language.read_text(tokens(3, 5), -5)
    image = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
    prefix = language.read_block(image, question)
    settings: dict[str, Any] = {"max_tokens": 10, "first_position": 1, "use_cache": use_cache}
    told = generate(language, PROMPTS, prefix=prefix, **settings)
    for row, prompt in enumerate(PROMPTS):
        alone = [(k[row : row + 1], v[row : row + 1]) for k, v in prefix]
        assert generate(language, [prompt], prefix=alone, **settings)[0] == told[row]
    assert all(
        ours != others for ours, others in zip(told, generate(language, PROMPTS, **settings), strict=True)
    )


@pytest.mark.parametrize(
    ("prompts", "settings", "words"),
    [
        ([], {}, "a prompt is empty"),
        ([[1], []], {}, "a prompt is empty"),
        ([[1, 50]], {}, "token 50 of a prompt is not in the model's vocabulary of 50"),
        ([[1]], {"max_tokens": 0}, "max_tokens=0"),
        ([[1]], {"temperature": -0.1}, "temperature=-0.1 must be 0 or above"),
        ([[1]], {"temperature": float("nan")}, "temperature=nan must be 0 or above"),
        ([[1]], {"temperature": 1.0}, "needs one seed for each of 1 prompts"),
        ([[1], [2]], {"temperature": 1.0, "seeds": [1]}, "needs one seed for each of 2 prompts"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    prompts: list[list[int]], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(FoundryError, match=words):
        generate(model(), prompts, **{"max_tokens": 4, **settings})
