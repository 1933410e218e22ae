"""The ``vlm`` stage: language model and vision on questions about pictures, and on text beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.data.captions.reader import CaptionDataset
from foundry_bench.errors import FoundryError
from foundry_bench.policies.checkpoint_files import TOKENIZER
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.encoder_checks import check_speaks
from foundry_bench.policies.storage import read_text
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vlm import VLM, make_vlm
from foundry_bench.policies.vlm_checkpoint import save_vlm
from foundry_bench.training.beside import Beside
from foundry_bench.training.caption_source import CaptionSource
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.distributed import joined
from foundry_bench.training.loop import run
from foundry_bench.training.stage import Batch
from foundry_bench.training.state import load_state


def train_vlm(
    config: TrainConfig,
    model_config: VLAConfig,
    root: Path,
    out: Path,
    *,
    answer_tokens: int = 48,
    beside: Beside | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Train a vision-language model on image-text pairs, or go on where a killed run in ``out`` stopped.

    Writes what `training.loop.train` writes; the checkpoint is read by `load_vlm`. A sample is one pair.

    Args:
        config: budget, optimiser, bookkeeping; with ``init_from`` it starts from a language model and keeps
            its tokenizer.
        model_config: of the whole VLA.
        root: a dataset that ``foundry-bench captions`` wrote.
        out: folder of the run.
        answer_tokens: longer answers lose their end.
        beside: text that is read too.

    Returns:
        the checkpoint folder. A finished run returns at once.

    Raises:
        FoundryError: ``out`` holds a run of another config (the key is named), pairs and model do not fit,
            the loss is no longer finite, or saving failed.
    """
    out = Path(out)
    with joined(config.parallel, device) as world:
        state = world.first(lambda: load_state(out / "state", tensors=not world.sharded))
        files = state.files if state else None
        stage = VLMStage(config, model_config, root, answer_tokens, files)
        mixed = beside.added_to("pairs", stage, config, files) if beside is not None else stage
        return run(mixed, config, out, state, device, progress)


class VLMStage:
    """See stage.Stage.

    Args:
        config, model_config, root, answer_tokens: as for `train_vlm`.
        files: tokenizer of the run that is resumed; that of ``config.init_from``, or trained, where absent.
    """

    model: VLM

    def __init__(
        self,
        config: TrainConfig,
        model_config: VLAConfig,
        root: Path,
        answer_tokens: int,
        files: Mapping[str, str] | None = None,
    ) -> None:
        if config.feature_views:
            raise FoundryError(
                f"vlm.feature_views={config.feature_views}: only frames of demonstrations have features that "
                "are kept, the stage 'vlm' has none; leave it out, train.feature_views is for the policy"
            )
        self.config, self.model_config = config, model_config
        check_speaks(model_config, "a vision-language model")
        self.tokenizer = _tokenizer(config, model_config, root, files)
        self.source = CaptionSource(
            root,
            model_config.cameras,
            model_config.image_size,
            self.tokenizer,
            answer_tokens=answer_tokens,
            batch_size=config.batch_size,
            seed=config.seed,
            z_loss=config.z_loss,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = make_vlm(model_config, files)

    def identity(self) -> Mapping[str, Mapping[str, Any]]:
        """See Stage.identity."""
        return {
            "train": self.config.to_dict(),
            "model": self.model_config.to_dict(),
            "data": dict(self.source.identity()),
        }

    def files(self) -> Mapping[str, str]:
        """See Stage.files."""
        return {TOKENIZER: self.tokenizer.to_json(), **self.model.assets}

    def batch(self, step: int) -> Batch:
        """See Stage.batch."""
        return self.source.batch(step)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See Stage.loss."""
        return self.source.loss(self.model, batch, generator)

    def validate(self, averaged: nn.Module) -> Mapping[str, float]:
        """See Stage.validate: accuracy on questions about unseen scenes."""
        return self.source.validate(averaged)

    def save(self, folder: Path, averaged: nn.Module) -> None:
        """See Stage.save."""
        identity = self.identity()
        about = {"train": identity["train"], "data": identity["data"]}
        save_vlm(
            folder, self.model_config, averaged.state_dict(), self.tokenizer, about, self.model.assets
        )  # fmt: skip


def _tokenizer(
    config: TrainConfig, model: VLAConfig, root: Path, files: Mapping[str, str] | None
) -> TextTokenizer:
    if files is not None:
        return TextTokenizer.from_json(files[TOKENIZER], model.text_tokens)
    if not config.init_from:
        return TextTokenizer.train_on_text(_texts(root), model.vocab_size, model.text_tokens, lowercase=True)
    path = Path(config.init_from) / TOKENIZER
    tokenizer = TextTokenizer.from_json(read_text(path), model.text_tokens, str(path))
    if tokenizer.vocab_size > model.vocab_size:
        raise FoundryError(
            f"{path} has {tokenizer.vocab_size} tokens, more than model.vocab_size={model.vocab_size}; give "
            "the model that checkpoint's vocab_size"
        )
    return tokenizer


def _texts(root: Path) -> Iterator[str]:
    for _, question, told in CaptionDataset(root).texts():
        yield f"{question} {told}"
