"""The ``llm`` stage: a language model on text corpora, next-token cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.data.corpora.corpus import Corpus, open_corpus
from foundry_bench.errors import FoundryError
from foundry_bench.policies.checkpoint_files import TOKENIZER
from foundry_bench.policies.language_checkpoint import TextModel, save_language_model
from foundry_bench.policies.lm_config import LMConfig
from foundry_bench.policies.tokenizer import TextTokenizer, limited
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.distributed import joined
from foundry_bench.training.loop import run
from foundry_bench.training.stage import Batch
from foundry_bench.training.state import load_state
from foundry_bench.training.text_config import TextConfig
from foundry_bench.training.text_source import TextSource


def train_language_model(
    config: TrainConfig,
    model_config: LMConfig,
    text: TextConfig,
    out: Path,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Train a language model, or go on where a killed run in ``out`` stopped.

    Writes what `training.loop.train` writes; the checkpoint is read by `load_language_model`. A sample is one
    block of ``model.context`` predicted tokens.

    Args:
        config: budget, optimiser, bookkeeping; what it says about images and states is not used.
        model_config: shape of the model.
        text: corpora and tokenizer.
        out: folder of the run.
        device: ``auto`` takes a GPU where there is one; bfloat16 is used there and only there.
        progress: show loss, samples/s and time left.

    Returns:
        the checkpoint folder. A finished run returns at once.

    Raises:
        FoundryError: ``out`` holds a run of another config or of other text (the key is named), a corpus
            cannot be read, the loss is no longer finite, or saving failed.
    """
    out = Path(out)
    with joined(config.parallel, device) as world:
        state = world.first(lambda: load_state(out / "state", tensors=not world.sharded))
        stage = LLMStage(config, model_config, text, state.files if state else None)
        return run(stage, config, out, state, device, progress)


class LLMStage:
    """See stage.Stage.

    Args:
        config, model_config, text: as for `train_language_model`.
        files: tokenizer and places in streams of the run that is resumed; made where absent.
        rank, world: which of how many processes this is.
    """

    model: TextModel

    def __init__(
        self,
        config: TrainConfig,
        model_config: LMConfig,
        text: TextConfig,
        files: Mapping[str, str] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if config.feature_views:
            raise FoundryError(
                f"llm.feature_views={config.feature_views}: only frames of demonstrations have features that "
                "are kept, the stage 'llm' has none; leave it out, train.feature_views is for the policy"
            )
        self.config, self.model_config, self.text = config, model_config, text
        corpora = [open_corpus(spec) for spec in text.corpora]
        self.tokenizer = make_tokenizer(model_config, text, corpora, files)
        self.source = TextSource(
            corpora,
            self.tokenizer,
            context=model_config.context,
            batch_size=config.batch_size,
            seed=config.seed,
            z_loss=config.z_loss,
            validation_blocks=text.validation_blocks,
            files=files,
            rank=rank,
            world=world,
            remembered=config.prefetch + 8,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = TextModel(model_config)

    def identity(self) -> Mapping[str, Mapping[str, Any]]:
        """See Stage.identity."""
        return {
            "train": self.config.to_dict(),
            "model": self.model_config.to_dict(),
            "data": dict(self.source.identity()),
        }

    def files(self) -> Mapping[str, str]:
        """See Stage.files."""
        return {TOKENIZER: self.tokenizer.to_json(), **self.source.files()}

    def batch(self, step: int) -> Batch:
        """See Stage.batch."""
        return self.source.batch(step)

    @property
    def tokens_per_sample(self) -> int:
        """Tokens that a block predicts."""
        return self.source.tokens_per_sample

    def describe(self, step: int) -> str:
        """What the batch of a step was made of."""
        return self.source.describe(step)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See Stage.loss."""
        return self.source.loss(self.model, batch, generator)

    def validate(self, averaged: nn.Module) -> Mapping[str, float]:
        """See Stage.validate."""
        return self.source.validate(averaged)

    def save(self, folder: Path, averaged: nn.Module) -> None:
        """See Stage.save."""
        identity = self.identity()
        about = {"train": identity["train"], "data": identity["data"]}
        save_language_model(folder, self.model_config, averaged.state_dict(), self.tokenizer, about)


def make_tokenizer(
    model: LMConfig, text: TextConfig, corpora: Sequence[Corpus], files: Mapping[str, str] | None = None
) -> TextTokenizer:
    """The tokenizer of a run: that of the run that is resumed, the one that is given, or one trained here.

    Raises:
        FoundryError: the one that is given cannot be read or has more tokens than the model.
    """
    names = (model.pad_token or None, model.end_token or None)
    if files is not None:
        return TextTokenizer.from_json(files[TOKENIZER], model.context, TOKENIZER, *names)
    if not text.tokenizer:
        total = sum(corpus.spec.weight for corpus in corpora)
        parts = [
            limited(corpus.train_texts(), round(text.tokenizer_characters * corpus.spec.weight / total))
            for corpus in corpora
        ]
        return TextTokenizer.train_on_text(
            chain.from_iterable(parts), model.vocab_size, model.context, text.lowercase
        )
    path = Path(text.tokenizer).expanduser()
    folder = path if path.is_dir() else path.parent
    if not (path.is_dir() or path.name == TOKENIZER):
        raise FoundryError(f"text.tokenizer={path}: give a {TOKENIZER}, or a folder with one")
    tokenizer = TextTokenizer.from_folder(folder, model.context, *names)
    if tokenizer.vocab_size > model.vocab_size:
        raise FoundryError(
            f"text.tokenizer={path} has {tokenizer.vocab_size} tokens, more than model.vocab_size="
            f"{model.vocab_size}; set it to {tokenizer.vocab_size} or more"
        )
    return tokenizer
