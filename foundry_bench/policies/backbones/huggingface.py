"""A VLA on a pretrained backbone: Qwen3-VL, SmolVLM, PaliGemma, or a language model with one of our encoders.

Shapes: B batch, U distinct instructions, T text tokens, V views, S pixels, L layers that the expert reads, G
heads of keys and values, N size of a head, P prefix tokens, D width of the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_expert import ActionExpert
from foundry_bench.policies.backbones.families import FAMILIES, Family
from foundry_bench.policies.backbones.loading import (
    Source,
    build_untrained,
    load_pretrained,
    open_source,
    read_config,
)
from foundry_bench.policies.backbones.prompts import LANGUAGE_MODELS, PLAIN, PROMPTS, Prompt
from foundry_bench.policies.backbones.tuning import tune
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.heads import make_expert
from foundry_bench.policies.language import KeyValue, init_linear
from foundry_bench.policies.prefix import Prefix
from foundry_bench.policies.pretrained_tokenizer import PretrainedTokenizer
from foundry_bench.policies.sight import TextFeatures
from foundry_bench.policies.token_expert import TokenExpert
from foundry_bench.policies.vision_encoders import make_vision_encoder
from foundry_bench.policies.vision_encoders.pixels import Pixels
from foundry_bench.policies.vision_encoders.projector import PROJECTED, Projector
from foundry_bench.policies.vla import VLA

CONFIG, PIXELS, TOKENIZER = "backbone_config.json", "backbone_preprocessor.json", "tokenizer.json"
_STATE_HIDDEN = 256


class StateMemory(nn.Module):
    """The robot's state as one more token to attend to: keys and values of every layer, from an MLP.

    It enters at the action expert and not at the backbone's input. A frozen backbone then has nothing to
    learn before it, so no gradient is computed through it, and what it makes of images and instruction does
    not depend on a projection that is still random when training starts.
    """

    def __init__(self, state_dim: int, layers: int, heads: int, size: int) -> None:
        super().__init__()
        self.shape = (layers, 2, heads, 1, size)
        self.hidden = nn.Linear(state_dim, _STATE_HIDDEN)
        self.spread = nn.Linear(_STATE_HIDDEN, 2 * layers * heads * size)
        self.apply(init_linear)

    def forward(self, state_BA: Tensor) -> Tensor:
        """Keys and values (B, L, 2, G, 1, N)."""
        return self.spread(nn.functional.silu(self.hidden(state_BA))).unflatten(-1, self.shape)


class BackboneVLA(VLA):
    """Images and instruction through a pretrained decoder; the expert reads its keys and values.

    The prompt is the family's own, images first: [before, images, instruction, after, padding]. Padding is
    hidden from the backbone and from the expert.

    Non-obvious behaviours: the language head is left out, since nothing here is read from it; a frozen
    backbone runs without gradients; the backbone is always in evaluation mode, because a dropout that its
    config asks for would draw from torch's global chance, which no resumed run could repeat;
    ``read_instructions`` only passes the tokens on, because what the backbone makes of them depends on the
    images before them.
    """

    start: Tensor  # ids of all that comes before the instruction, (1, tokens)
    positions: Tensor | None  # (3, 1, P), where the family has three axes

    def _build_sight(self, config: VLAConfig, assets: Mapping[str, str] | None) -> None:
        source = open_source(config.backbone_path, "model.backbone_path") if assets is None else None
        texts = source_texts(source, config) if source is not None else dict(assets or {})
        hugging = backbone_config(texts[CONFIG], config, source)
        where = source.where(TOKENIZER) if source is not None else TOKENIZER
        tokenizer = backbone_tokenizer(texts[TOKENIZER], config, hugging.model_type, where)
        self.backbone = load_base(hugging, config, source)
        check_tokens(self.backbone, hugging, tokenizer)
        self.assets = {name: texts[name] for name in names(config) if name != TOKENIZER}
        self.family: Family | None = None
        if config.backbone == "vlm":
            pixels = Pixels.from_json(texts[PIXELS], source.where("preprocessor") if source else PIXELS)
            self.family = FAMILIES[hugging.model_type](
                hugging, pixels, config.vision_pixels, config.image_size
            )
            per_image = self.family.image_tokens
        else:
            self.vision = make_vision_encoder(config, assets)
            self.assets |= self.vision.assets
            words = self.backbone.get_input_embeddings().weight
            self.projector = Projector(
                self.vision.grid, self.vision.width, words.shape[1], config.vision_shuffle
            )
            with torch.no_grad():  # image tokens begin as large as the words that the backbone knows
                self.projector.down.weight.mul_(words.float().std() / PROJECTED)
            per_image = self.projector.count
        self._lay_out(prompt_of(hugging.model_type), tokenizer, hugging, per_image)
        tune(self.backbone, config)
        self.pretrained = ("backbone.", *(() if config.vision == "vit" else ("vision.",)))
        self._measure(hugging.get_text_config())
        layers = config.expert_layers or self.depth
        if layers > self.depth:
            raise FoundryError(
                f"model.expert_layers={layers} is more than the {self.depth} layers of {hugging.model_type}"
            )
        self.read_layers = [(number + 1) * self.depth // layers - 1 for number in range(layers)]

    def _build_state(self, config: VLAConfig) -> nn.Module:
        return StateMemory(config.state_dim, len(self.read_layers), self.shared_heads, self.head_size)

    def _measure(self, text: Any) -> None:
        """Layers and heads of the language model."""
        self.depth = int(text.num_hidden_layers)
        self.query_heads = int(text.num_attention_heads)
        self.shared_heads = int(getattr(text, "num_key_value_heads", None) or self.query_heads)
        self.head_size = int(getattr(text, "head_dim", None) or text.hidden_size // self.query_heads)

    def _lay_out(self, prompt: Prompt, tokenizer: PretrainedTokenizer, hugging: Any, per_image: int) -> None:
        """Token ids before the instruction, and where among them images go.

        Where features are handed over as embeddings there is no placeholder token: id 0 stands for one.
        """
        views = len(self.config.cameras) * self.config.observation_steps
        placeholder = tokenizer.special(prompt.image) if prompt.image else 0
        opens, closes = tokenizer.ids(prompt.opens), tokenizer.ids(prompt.closes)
        ids = tokenizer.ids(prompt.before)
        if not prompt.image and getattr(hugging, "bos_token_id", None) is not None:
            ids = [int(hugging.bos_token_id)]
        is_image = [False] * len(ids)
        self.first_image = len(ids) + len(opens)
        for _ in range(views):
            ids += [*opens, *[placeholder] * per_image, *closes]
            is_image += [False] * len(opens) + [True] * per_image + [False] * len(closes)
        between = tokenizer.ids(prompt.between)
        ids, is_image = ids + between, is_image + [False] * len(between)
        self.register_buffer("start", torch.tensor([ids]), persistent=False)
        everything = is_image + [False] * self.config.text_tokens
        positions = self.family.positions(everything) if self.family is not None else None
        self.register_buffer("positions", positions, persistent=False)

    def _build_expert(self, config: VLAConfig) -> ActionExpert | TokenExpert:
        """An expert whose head size, heads of keys and values, and query heads are the backbone's.

        Its queries are not rotated: the backbone's keys carry rotary positions, but every prefix has the same
        length, so a fixed rotation of the queries would only be another basis of what they learn.
        """
        return make_expert(
            config,
            heads=self.query_heads,
            head_size=self.head_size,
            layers=len(self.read_layers),
            kv_heads=self.shared_heads,
        )

    def train(self, mode: bool = True) -> BackboneVLA:
        """As of any module; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> TextFeatures:
        """The tokens themselves, padding marked: the backbone reads the images before them."""
        empty = torch.empty(len(tokens_UT), 0, device=tokens_UT.device)
        return TextFeatures(empty, [], tokens_UT.masked_fill(~mask_UT, -1))

    def encode(self, images: Tensor, state: Tensor, text: TextFeatures) -> Sequence[KeyValue]:
        """See VLA.encode: of each layer that the expert reads, (B, G, P, N), the state's last.

        Args:
            images: uint8 (B, V, S, S, 3), or with ``backbone=lm`` kept features of its vision encoder.
            state: normalised (B, state_dim).
            text: token ids of each row's instruction.
        """
        assert text.tokens is not None
        mask_BT = text.tokens >= 0
        start_BP = self.start.expand(len(images), -1)
        ids_BP = torch.cat([start_BP, text.tokens.clamp(min=0)], dim=1)
        mask_BP = torch.cat([torch.ones_like(start_BP, dtype=torch.bool), mask_BT], dim=1)
        layers = self._read(images, ids_BP, mask_BP)
        memory = self.state(state)
        seen = torch.cat([mask_BP, mask_BP.new_ones(len(images), 1)], dim=1)
        return Prefix(
            (
                (
                    torch.cat([layers[number][0].to(memory.dtype), memory[:, place, 0]], dim=2),
                    torch.cat([layers[number][1].to(memory.dtype), memory[:, place, 1]], dim=2),
                )
                for place, number in enumerate(self.read_layers)
            ),
            seen,
        )

    def _read(self, images: Tensor, ids_BP: Tensor, mask_BP: Tensor) -> list[KeyValue]:
        """Keys and values of all layers for a prompt with images."""
        common: dict[str, Any] = {"attention_mask": mask_BP.long(), "use_cache": True}
        if self.family is None:
            x_BPD = self.backbone.get_input_embeddings()(ids_BP)
            features = self.projector(self.vision.tokens(images)).flatten(1, 2).to(x_BPD.dtype)
            first = self.first_image
            x_BPD = torch.cat([x_BPD[:, :first], features, x_BPD[:, first + features.shape[1] :]], dim=1)
            return cached(self.backbone(inputs_embeds=x_BPD, **common), ids_BP.shape[1])
        if self.positions is not None:
            common["position_ids"] = self.positions.expand(-1, len(images), -1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.tuning != "frozen"):
            common |= self.family.inputs(images, mask_BP)
            return cached(self.backbone(input_ids=ids_BP, **common), ids_BP.shape[1])


def names(config: VLAConfig) -> tuple[str, ...]:
    """The small files that a backbone is built from."""
    return (CONFIG, PIXELS, TOKENIZER) if config.backbone == "vlm" else (CONFIG, TOKENIZER)


def source_texts(source: Source, config: VLAConfig) -> dict[str, str]:
    """Those files of a source, under the names that a checkpoint gives them."""
    texts = {CONFIG: source.read("config.json")}
    backbone_config(texts[CONFIG], config, source)  # what is no such model lacks other files too
    texts[TOKENIZER] = source.read("tokenizer.json")
    if config.backbone == "vlm":
        texts[PIXELS] = source.preprocessor()
    return texts


def backbone_config(text: str, config: VLAConfig, source: Source | None) -> Any:
    """The backbone's transformers configuration; FoundryError when it is of no supported family."""
    known = tuple(PROMPTS) if config.backbone == "vlm" else LANGUAGE_MODELS
    return read_config(text, source.where("config.json") if source else CONFIG, known)


def prompt_of(model_type: str) -> Prompt:
    """How a family is addressed."""
    return PROMPTS.get(model_type, PLAIN)


def backbone_tokenizer(text: str, config: VLAConfig, model_type: str, where: str) -> PretrainedTokenizer:
    """The backbone's tokenizer, which adds what its prompt has after the instruction; ``where`` names it."""
    return PretrainedTokenizer(text, config.text_tokens, "", prompt_of(model_type).after, where)


def load_base(hugging: Any, config: VLAConfig, source: Source | None) -> Any:
    """The model without its language head: with the source's weights, or untrained where there is none."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if config.backbone == "vlm" else AutoModelForCausalLM
    if source is None:
        whole = build_untrained(kind, hugging, config.backbone_dtype)
    else:
        whole = load_pretrained(kind, hugging, source, config.backbone_dtype)
    return whole.model


def check_tokens(backbone: Any, hugging: Any, tokenizer: PretrainedTokenizer) -> None:
    """FoundryError where tokenizer and model were not made for each other."""
    rows = backbone.get_input_embeddings().weight.shape[0]
    prompt = prompt_of(hugging.model_type)
    if prompt.image and tokenizer.special(prompt.image) != hugging.image_token_id:
        raise FoundryError(
            f"tokenizer.json gives {prompt.image} the id {tokenizer.special(prompt.image)}, config.json says "
            f"{hugging.image_token_id}; use the two files that were published together"
        )
    for token in (prompt.opens, prompt.closes, prompt.between):
        for part in token.replace("><", "> <").split():
            tokenizer.special(part)
    words = tokenizer.tokenizer.get_vocab(with_added_tokens=True)
    words.pop(prompt.image, None)  # PaliGemma's may lie beyond its embeddings: it is never looked up
    if max(words.values()) >= rows:
        raise FoundryError(
            f"tokenizer.json has {max(words.values()) + 1} tokens, the model embeds {rows}; use the two "
            "files that were published together"
        )


def cached(output: Any, length: int) -> list[KeyValue]:
    """Keys and values per layer (B, G, P, N) of a forward pass over P tokens with ``use_cache=True``.

    Raises:
        FoundryError: a layer kept fewer than ``length`` tokens.
    """
    cache = getattr(output, "cache", None)
    if cache is None:  # transformers before 5.2x names it as it always had
        cache = output.past_key_values
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    kept = min(keys.shape[2] for keys, _ in layers)
    if kept != length:
        raise FoundryError(
            f"model.backbone_path: a sliding window of the backbone keeps {kept} of the prompt's {length} "
            "tokens, and the action expert reads all; use fewer image tokens (model.vision_pixels, "
            "model.vision_shuffle), fewer cameras or another backbone"
        )
    return layers
