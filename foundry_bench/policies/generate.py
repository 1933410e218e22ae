"""Text from a language model: token by token, with the keys and values of what was read before.

Shapes: B prompts, S tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.language import KeyValue, LanguageModel


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    end: int | None = None,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    prefix: Sequence[KeyValue] | None = None,
    first_position: int = 0,
    use_cache: bool = True,
) -> list[list[int]]:
    """Continue each prompt until its end token or for so many tokens.

    Non-obvious behaviours: prompts of different lengths are padded on the left and the padding is never
    attended to, so a prompt's text is the same whatever it is batched with, up to the rounding of the matrix
    products. Chance comes from each row's own seed, so it does not depend on the neighbours either.

    Args:
        model: the language model; its mode (training, evaluation) does not matter.
        prompts: token ids of B prompts, at least one token each.
        max_tokens: new tokens of a row at most.
        end: the token that ends a text; None: every row gets ``max_tokens`` tokens.
        temperature: 0 takes the most probable token; above 0 tokens are drawn, the more evenly the higher.
        seeds: B seeds, needed where the temperature is above 0.
        prefix: every layer's keys and values of tokens before the prompts, for B rows (an image, say).
        first_position: rotary position of each prompt's first token (see `LanguageModel.read_text`).
        use_cache: false reads everything again for every token: slow, for comparison.

    Returns:
        the new tokens of each row, without the end token.

    Raises:
        FoundryError: no prompt, an empty prompt, a token outside of the vocabulary, a negative temperature,
            or seeds that are missing or not as many as prompts.
    """
    _check(model, prompts, max_tokens, temperature, seeds)
    device = model.embedding.weight.device
    tokens_BS, real_BS = _pad_left(prompts, device)
    chances = [torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF) for seed in seeds or ()]
    before = 0 if prefix is None else prefix[0][0].shape[2]
    seen = torch.cat([torch.ones(len(prompts), before, dtype=torch.bool, device=device), real_BS], dim=1)
    padded = not bool(real_BS.all())
    position: int | Tensor = first_position
    if padded:  # the first real token of each row is at the same position
        position = first_position - (~real_BS).sum(dim=1)
    cache, unread = prefix, tokens_BS
    texts: list[list[int]] = [[] for _ in prompts]
    running = [True] * len(prompts)
    for _ in range(max_tokens):
        hidden, read = model.read_text(unread, position, cache, seen if padded else None)
        chosen = _choose(model.logits(hidden[:, -1]), temperature, chances)
        for row, token in enumerate(chosen):
            running[row] = running[row] and token != end
            if running[row]:
                texts[row].append(token)
        if not any(running):
            break
        new = torch.tensor(chosen, device=device)[:, None]
        seen = torch.cat([seen, torch.ones_like(new, dtype=torch.bool)], dim=1)
        if use_cache:
            position, cache, unread = position + unread.shape[1], read, new
        else:
            unread = torch.cat([unread, new], dim=1)
    return texts


def _choose(logits_BV: Tensor, temperature: float, chances: Sequence[torch.Generator]) -> list[int]:
    if temperature == 0:
        return logits_BV.argmax(dim=-1).tolist()
    probabilities = torch.softmax(logits_BV.float() / temperature, dim=-1).cpu()
    return [
        int(torch.multinomial(row, 1, generator=chance))
        for row, chance in zip(probabilities, chances, strict=True)
    ]


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens (B, S), and which of them are real."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    real = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        real[row, longest - len(prompt) :] = True
    return tokens.to(device), real.to(device)


def _check(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    temperature: float,
    seeds: Sequence[int] | None,
) -> None:
    if not prompts or not all(prompts):
        raise FoundryError("a prompt is empty: give each at least one token, the tokenizer's end token say")
    for prompt in prompts:
        for token in prompt:
            if not 0 <= token < model.vocab_size:
                raise FoundryError(
                    f"token {token} of a prompt is not in the model's vocabulary of {model.vocab_size}; "
                    "use the tokenizer that was saved with the model"
                )
    if max_tokens < 1:
        raise FoundryError(f"max_tokens={max_tokens} must be at least 1")
    if not temperature >= 0:
        raise FoundryError(f"temperature={temperature} must be 0 or above (0: the most probable token)")
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
        raise FoundryError(f"temperature={temperature} needs one seed for each of {len(prompts)} prompts")
