"""What a language model is: the ``model`` config of the ``llm`` stage, and sizes by name. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.config import check_heads, checked_fields, plain

_POSITIVE = ("vocab_size", "width", "heads", "layers", "hidden", "context")
#: Of the token embedding where ``embedding_std`` is 0. Logits of a tied head then start with a spread near 1.
_EMBEDDING_STD_TIMES_ROOT_WIDTH = 1.0


@dataclass(frozen=True)
class LMConfig:
    """Shape of a decoder-only language model.

    Attributes:
        name: what it is called in cards and tables.
        vocab_size: rows of the embedding; at least as many as the tokenizer has tokens.
        width: of the residual stream.
        heads: query heads.
        kv_heads: key and value heads, a divisor of ``heads``; 0: as many as ``heads``.
        head_size: width of a head; 0: width / heads.
        layers: decoder blocks.
        hidden: width of the gated feed-forward.
        rope_base: of the rotary frequencies.
        norm_eps: of every RMSNorm.
        qk_norm: normalise queries and keys of each head before they are rotated.
        tied: logits come from the embedding; otherwise from a matrix of their own.
        context: tokens that are predicted in a training block.
        embedding_std: of the initial embedding; 0: 1 / sqrt(width).
        pad_token, end_token: of the tokenizer; empty: found by their usual names.
    """

    name: str = "lm"
    vocab_size: int = 2048
    width: int = 128
    heads: int = 4
    kv_heads: int = 0
    head_size: int = 0
    layers: int = 4
    hidden: int = 352
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = False
    tied: bool = True
    context: int = 256
    embedding_std: float = 0.0
    pad_token: str = ""
    end_token: str = ""

    def __post_init__(self) -> None:
        for key in _POSITIVE:
            if getattr(self, key) < 1:
                raise FoundryError(f"model.{key}={getattr(self, key)} must be at least 1")
        check_heads(self.width, self.heads, self.kv_heads, self.head_size)
        for key in ("rope_base", "norm_eps"):
            if not getattr(self, key) > 0:
                raise FoundryError(f"model.{key}={getattr(self, key)} must be above 0")
        if not self.embedding_std >= 0:
            raise FoundryError(f"model.embedding_std={self.embedding_std} must not be negative")

    @property
    def key_heads(self) -> int:
        """Key and value heads, resolved."""
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        """Width of a head, resolved."""
        return self.head_size or self.width // self.heads

    @property
    def initial_embedding_std(self) -> float:
        """Standard deviation of the initial embedding, resolved."""
        return self.embedding_std or _EMBEDDING_STD_TIMES_ROOT_WIDTH * self.width**-0.5

    def parameters(self) -> int:
        """Number of parameters, counted without building the model."""
        size = self.size_of_head
        attention = self.width * size * 2 * (self.heads + self.key_heads)
        block = attention + 3 * self.width * self.hidden + 2 * self.width + 2 * size * self.qk_norm
        tables = self.vocab_size * self.width * (1 if self.tied else 2)
        return tables + self.layers * block + self.width

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "model") -> LMConfig:
        """Build from plain values; FoundryError on an unknown key, naming the nearest.

        The key ``preset`` names one of `PRESETS`; the other keys change it.
        """
        values = dict(values)
        base = preset(str(values.pop("preset")), where) if "preset" in values else cls()
        return cls(**{**asdict(base), **checked_fields(cls, values, where)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values that ``from_dict`` reads back."""
        return plain(asdict(self))


#: Sizes by name. `nano` trains on a CPU in minutes; `410m` and `1b` are the shapes of common open models.
PRESETS: dict[str, LMConfig] = {
    config.name: config
    for config in (
        LMConfig(name="nano"),
        LMConfig(
            name="11m", vocab_size=10_240, width=288, heads=6, layers=8, hidden=768, context=512,
        ),
        LMConfig(
            name="100m", vocab_size=32_768, width=640, heads=10, layers=16, hidden=1728, context=1024,
        ),
        LMConfig(
            name="410m", vocab_size=50_432, width=1024, heads=16, layers=24, hidden=2816, context=2048,
            qk_norm=True, tied=False,
        ),
        LMConfig(
            name="1b", vocab_size=50_432, width=2048, heads=16, layers=24, hidden=5632, context=2048,
            qk_norm=True, tied=False,
        ),
    )
}  # fmt: skip


def preset(name: str, where: str = "model") -> LMConfig:
    """A size by its name; FoundryError, naming the nearest, where there is none."""
    if name not in PRESETS:
        raise FoundryError(f"{where}.preset={name} is unknown: {nearest(name, PRESETS)}")
    return PRESETS[name]
