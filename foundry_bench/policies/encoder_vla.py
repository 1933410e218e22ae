"""Our small stack and action expert, with other encoders of images and text before it.

Shapes: B batch, U distinct instructions, T text tokens, V views, S pixels, P tokens of a view, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.language import KeyValue, init_linear
from foundry_bench.policies.minilm import WIDTH, MiniLM
from foundry_bench.policies.sight import Sight, TextFeatures, make_language, make_stems
from foundry_bench.policies.vision_encoders import make_vision_encoder
from foundry_bench.policies.vision_encoders.projector import Projector
from foundry_bench.policies.vla import VLA
from foundry_bench.policies.vlm import VLM


class EncoderSight(Sight):
    """``model.vision`` other than stem, ``model.text`` other than own, or both.

    An encoder serves all views: what tells cameras and observation steps apart is added to its tokens. The
    stem is modulated by the instruction within (FiLM); of other encoders the tokens are, once they have the
    stack's width, so that what is frozen depends on the pixels alone and can be kept.
    """

    def _build_sight(self, config: VLAConfig, assets: Mapping[str, str] | None) -> None:
        self.language = make_language(config)
        if config.text == "minilm":
            self.reader = MiniLM(pretrained=assets is None)
            self.read = nn.Linear(WIDTH, config.width)
            init_linear(self.read)
            del self.language.embedding  # MiniLM's features come in its place
        if config.vision == "stem":
            self.stems = make_stems(config)
            return
        self.vision = make_vision_encoder(config, assets)
        self.assets = dict(self.vision.assets)
        self.projector = Projector(self.vision.grid, self.vision.width, config.width, config.vision_shuffle)
        views = len(config.cameras) * config.observation_steps
        self.film = nn.Linear(config.width, views * 2 * config.width)
        nn.init.zeros_(self.film.bias)
        nn.init.normal_(self.film.weight, std=0.3 * config.width**-0.5)
        # Of the size of the tokens: place is all that tells equal patches apart, and these were smaller
        # at first and slower to find where things are.
        self.position = nn.Parameter(0.3 * torch.randn(views, self.projector.count, config.width))
        if config.vision != "vit":
            self.pretrained = ("vision.",)

    def _read_text(self, tokens_UT: Tensor, mask_UT: Tensor) -> tuple[Tensor, list[KeyValue]]:
        if self.config.text == "own":
            return super()._read_text(tokens_UT, mask_UT)
        x_UTD = self.read(self.reader(tokens_UT, mask_UT))
        return self.language.read_embeddings(x_UTD, first_position=-self.config.text_tokens)

    def _film(self, summary_UD: Tensor) -> Tensor:
        if self.config.vision == "stem":
            return super()._film(summary_UD)
        return self.film(summary_UD).unflatten(-1, (len(self.position), -1))

    def image_tokens(self, images: Tensor, text: TextFeatures) -> list[Tensor]:
        """See Sight; ``images`` may also be kept features of the encoder (see its ``tokens``)."""
        if self.config.vision == "stem":
            return super().image_tokens(images, text)
        tokens_BVPD = self.projector(self.vision.tokens(images))
        scale, shift = text.film[:, :, None].chunk(2, dim=-1)
        return [(tokens_BVPD * (1.0 + scale) + shift + self.position).flatten(1, 2)]

    def picture_tokens(self, images: Tensor, camera_B: Tensor, text: TextFeatures) -> Tensor:
        """See Sight."""
        if self.config.vision == "stem":
            return super().picture_tokens(images, camera_B, text)
        tokens_BPD = self.projector(self.vision.tokens(images[:, None])[:, 0])
        film_BC = text.film[torch.arange(len(images), device=images.device), camera_B]
        scale, shift = film_BC[:, None].chunk(2, dim=-1)
        return tokens_BPD * (1.0 + scale) + shift + self.position[camera_B]


class EncoderVLA(EncoderSight, VLA):
    """Our small stack and action expert, with other encoders before it."""


class EncoderVLM(EncoderSight, VLM):
    """The vision-language model of an `EncoderVLA`."""
