"""What a stage learns beside its own data (co-training): image-text pairs and text, in steps between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.encoder_checks import check_speaks
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.training.caption_source import CaptionSource
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.mixture import MixedStage, Source, StageSource
from foundry_bench.training.stage import Stage
from foundry_bench.training.text_config import TextConfig
from foundry_bench.training.text_source import open_text_source


class Speaking(Stage, Protocol):
    """A stage whose model has a language model."""

    model_config: Any

    @property
    def tokenizer(self) -> Any:
        """A TextTokenizer, where the model has a language model of ours."""
        ...


@dataclass(frozen=True)
class Beside:
    """Other data and how often it is drawn.

    Attributes:
        captions: steps on image-text pairs for each of the stage's own; 0: none.
        captions_root: the dataset of them.
        answer_tokens: longer answers lose their end.
        text: steps on text for each of the stage's own; 0: none.
        text_config: which text.
        block: tokens that a block of text predicts.
    """

    captions: float = 0.0
    captions_root: str = ""
    answer_tokens: int = 48
    text: float = 0.0
    text_config: TextConfig | None = None
    block: int = 128

    def added_to(
        self, name: str, stage: Speaking, config: TrainConfig, files: Mapping[str, str] | None = None
    ) -> Stage:
        """The stage and the other data as one; the stage itself where there is none.

        Args:
            name: of the stage's own data, in logs.
            stage: whose model learns.
            config: of the run.
            files: small files of the run that is resumed.

        Raises:
            FoundryError: a model without a language model, or data that does not fit it.
        """
        if not (self.captions or self.text):
            return stage
        model = stage.model_config
        if isinstance(model, VLAConfig):
            check_speaks(model, "cotrain: what is learned beside actions")
        if not hasattr(stage.model, "language"):
            raise FoundryError(
                f"cotrain: model {model.name} has no language model of ours; choose a VLA, or leave it out"
            )
        tokenizer: TextTokenizer = stage.tokenizer
        sources: list[Source] = [StageSource(name, stage)]
        weights = {name: 1.0}
        if self.captions:
            weights["captions"] = self.captions
            sources.append(
                CaptionSource(
                    self.captions_root, model.cameras, model.image_size, tokenizer,
                    answer_tokens=self.answer_tokens, batch_size=config.batch_size, seed=config.seed,
                    z_loss=config.z_loss,
                )
            )  # fmt: skip
        if self.text:
            weights["text"] = self.text
            text = self.text_config or TextConfig()
            sources.append(open_text_source(text, tokenizer, self.block, config, files))
        return MixedStage(stage, sources, weights, config.seed)
