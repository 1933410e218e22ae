"""The ``vla`` stage: robot demonstrations to batches, and the loss on them of a VLA or a baseline.

A batch: images uint8 (B, C, S, S, 3), or kept features of a frozen encoder (see feature_cache), state
(B, state_dim) and actions (B, horizon, action_dim) normalised,
action_mask (B, horizon) false after the episode's end, tokens and token_mask (U, text_tokens) of the U
distinct instructions, inverse (B,) each row's instruction among them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import foundry_bench
from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_tokens import (
    FIT_CHUNKS,
    fit_action_tokenizer,
    read_action_tokenizer,
)
from foundry_bench.policies.architectures import ModelConfig
from foundry_bench.policies.build import (
    ACTION_TOKENIZER,
    give_action_tokenizer,
    make_model,
    make_tokenizer,
    needs_action_tokenizer,
    own_tokenizer,
    read_tokenizer,
)
from foundry_bench.policies.checkpoint import (
    NORMALIZATION,
    Checkpoint,
    save_checkpoint,
)
from foundry_bench.policies.checkpoint_files import TOKENIZER
from foundry_bench.policies.normalization import Normalizer, clip_state
from foundry_bench.policies.storage import read_text
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vla_policy import VLAPolicy
from foundry_bench.training.augment import shift_images
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.feature_cache import FeatureCache
from foundry_bench.training.order import AUGMENT, SampleOrder, generator, hold_out
from foundry_bench.training.stage import Batch, Rows
from foundry_bench.training.warm_start import tokenizer_text

if TYPE_CHECKING:
    from foundry_bench.data.reader import RobotDataset
    from foundry_bench.policies.action_model import ActionModel, InstructionTokenizer
    from foundry_bench.policies.config import VLAConfig

VALIDATION_FRAMES = 256


class VLAStage:
    """See stage.Stage."""

    model: nn.Module
    tokenizer: InstructionTokenizer

    def __init__(
        self,
        config: TrainConfig,
        model_config: ModelConfig,
        dataset: RobotDataset,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """``files``: normalization and tokenizer of the run that is resumed; computed where absent."""
        check_fit(model_config, dataset)
        check_recomputing(config, model_config)
        self.config, self.model_config, self.dataset = config, model_config, dataset
        instructions = sorted(set(dataset.episodes["instruction"]))
        if files is None:
            self.normalizer = Normalizer.fit(
                dataset.statistics(), model_config.state_normalization, model_config.action_normalization
            )
            self.tokenizer = make_tokenizer(model_config, instructions)
            if config.init_from and own_tokenizer(model_config):
                self.tokenizer = _tokenizer_of(Path(config.init_from), model_config) or self.tokenizer
        else:
            self.normalizer = Normalizer.from_json(files[NORMALIZATION])
            self.tokenizer = read_tokenizer(model_config, files)
        self._number = {text: number for number, text in enumerate(instructions)}
        self._tokens, self._token_mask = self.tokenizer.encode(instructions)
        train, self._held_out = split_frames(dataset, config)
        self._order = SampleOrder(train, config.batch_size, config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._policy_model = make_model(model_config, files)
        if files is None and needs_action_tokenizer(model_config):
            self._begin_action_tokenizer(train)
        assert isinstance(self._policy_model, nn.Module)
        self.model = self._policy_model
        self._features: FeatureCache | None = None

    def _begin_action_tokenizer(self, frames: np.ndarray) -> None:
        """That of the checkpoint which the run starts from, or one fitted on chunks spread over the frames.

        To what a checkpoint has learned of its tokens, those of another tokenizer would be other words.
        """
        config = cast("VLAConfig", self.model_config)
        path = Path(self.config.init_from) / ACTION_TOKENIZER
        if self.config.init_from and path.exists():
            given = read_action_tokenizer(read_text(path), config, str(path))
            give_action_tokenizer(self._policy_model, given)
            return
        spread = np.linspace(0, len(frames) - 1, min(FIT_CHUNKS, len(frames))).astype(np.int64)
        actions, mask = self.dataset.chunks(frames[spread], config.horizon)
        tokenizer = fit_action_tokenizer(config, self.normalizer.action.apply(actions), mask)
        give_action_tokenizer(self._policy_model, tokenizer)

    def identity(self) -> Mapping[str, Mapping[str, Any]]:
        """See Stage.identity."""
        return {
            "train": self.config.to_dict(),
            "model": self.model_config.to_dict(),
            "data": {
                "fingerprint": self.dataset.fingerprint,
                "episodes": len(self.dataset.episodes),
                "frames": self.dataset.num_frames,
            },
        }

    def files(self) -> Mapping[str, str]:
        """See Stage.files."""
        return {
            NORMALIZATION: self.normalizer.to_json(),
            TOKENIZER: self.tokenizer.to_json(),
            **self._policy_model.assets,
        }

    def prepare(self, device: torch.device, progress: bool) -> None:
        """See Stage: keep features where ``train.feature_views`` says so."""
        if self.config.feature_views:
            self.keep_features(device, progress)

    def keep_features(self, device: torch.device, progress: bool = True) -> None:
        """Compute what the frozen vision encoder gives for every frame, or read it where it was kept before.

        From then on batches hold these features in the place of images.

        Raises:
            FoundryError: there is no frozen vision encoder, or the features exceed train.feature_gib.
        """
        self._features = FeatureCache.of(self.model.to(device), self.dataset, self.config, progress)

    def batch(self, step: int) -> Batch:
        """See Stage.batch."""
        return self.batch_rows(step, Rows(0, self.config.batch_size, self.config.batch_size))

    def batch_rows(self, step: int, rows: Rows) -> Batch:
        """See Stage: the chance of the whole batch is drawn, the frames of other rows are not read."""
        frames = self._order.batch(step)[rows.first : rows.stop]
        raw = self.dataset.batch(frames, self.model_config.horizon)
        chance = generator(self.config.seed, AUGMENT, step)
        images = np.stack([raw["images"][camera] for camera in self.model_config.cameras], axis=1)
        if self._features is not None:
            images = self._features.draw(frames, chance, rows)
        elif self.config.shift:
            flat = images.reshape(-1, *images.shape[2:])
            cameras = images.shape[1]
            shifts = chance.integers(-self.config.shift, self.config.shift + 1, (rows.total * cameras, 2))
            shifts = shifts[rows.first * cameras : rows.stop * cameras]
            images = shift_images(flat, shifts).reshape(images.shape)
        state = self.normalizer.state.apply(raw["state"])
        noise = chance.standard_normal((rows.total, state.shape[1]), dtype=np.float32)
        state += self.config.state_noise * noise[rows.first : rows.stop]
        numbers = [self._number[text] for text in raw["instruction"]]
        distinct, inverse = np.unique(numbers, return_inverse=True)
        if self.config.compile:  # a compiled graph wants the same shapes in every step
            count = min(len(self._tokens), len(numbers))
            distinct = np.concatenate([distinct, np.zeros(count - len(distinct), dtype=distinct.dtype)])
        arrays = {
            "images": images,
            "state": clip_state(state),
            "actions": self.normalizer.action.apply(raw["actions"]),
            "action_mask": raw["action_mask"],
            "tokens": self._tokens[distinct],
            "token_mask": self._token_mask[distinct],
            "inverse": inverse.astype(np.int64),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def cut(self, batch: Batch, first: int, stop: int) -> Batch:
        """See Stage: of the distinct instructions, those of the rows."""
        part = {
            name: tensor if name in ("tokens", "token_mask") else tensor[first:stop]
            for name, tensor in batch.items()
        }
        if not self.config.compile:
            distinct, inverse = part["inverse"].unique(return_inverse=True)
            part.update(
                tokens=part["tokens"][distinct], token_mask=part["token_mask"][distinct], inverse=inverse
            )
        return part

    def weight(self, batch: Batch) -> float:
        """See Stage: actions that are real, or what the model's head says that it counts."""
        own: Any = getattr(self._policy_model.head, "weight", None)
        if own is not None:
            return float(own(batch["actions"], batch["action_mask"]))
        return float(batch["action_mask"].sum())

    def describe(self, step: int) -> str:
        """See Stage."""
        frames = self._order.batch(step).tolist()
        return f"frames {', '.join(map(str, frames))} of {self.dataset.root}"

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See Stage.loss."""
        return self._policy_model.loss(batch, generator)

    def validate(self, averaged: nn.Module) -> Mapping[str, float]:
        """Mean absolute error of sampled actions on held-out episodes, and how often the gripper is right."""
        if not len(self._held_out):
            return {}
        policy = VLAPolicy(
            cast("ActionModel", averaged),
            self.normalizer,
            self.tokenizer,
            device=str(next(averaged.parameters()).device),
        )
        spread = np.linspace(0, len(self._held_out) - 1, min(VALIDATION_FRAMES, len(self._held_out)))
        raw = self.dataset.batch(self._held_out[spread.astype(np.int64)], self.model_config.horizon)
        observations = {**raw["images"], "state": raw["state"], "instruction": raw["instruction"]}
        chunks = policy.predict(observations, noise_seeds=range(len(raw["state"])))
        mask = raw["action_mask"]
        error = np.abs(chunks - raw["actions"])[mask]
        gripper = (np.sign(chunks[..., -1]) == np.sign(raw["actions"][..., -1]))[mask]
        return {"action_error": float(error.mean()), "gripper_accuracy": float(gripper.mean())}

    def save(self, folder: Path, averaged: nn.Module) -> None:
        """See Stage.save."""
        identity = self.identity()
        versions = {
            "foundry_bench": foundry_bench.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        about = {"train": identity["train"], "data": identity["data"], "versions": versions}
        save_checkpoint(
            folder,
            Checkpoint(
                self.model_config,
                averaged.state_dict(),
                self.normalizer,
                self.tokenizer,
                about,
                self._policy_model.assets,
            ),
        )


def check_fit(model: ModelConfig, dataset: RobotDataset) -> None:
    """FoundryError when the model wants cameras, pixels or sizes that the demonstrations do not have."""
    spec = dataset.spec
    missing = [camera for camera in model.cameras if camera not in spec.cameras]
    if missing:
        raise FoundryError(
            f"model.cameras has '{missing[0]}', the demonstrations in {dataset.root} have "
            f"{list(spec.cameras)}; change model.cameras or collect them anew"
        )
    if getattr(model, "observation_steps", 1) > 1:
        raise FoundryError(
            f"model.observation_steps={getattr(model, 'observation_steps', 1)}: training shows the present "
            "frame only; use 1"
        )
    for key, wanted, found in (
        ("image_size", model.image_size, spec.image_size),
        ("state_dim", model.state_dim, len(spec.state_names)),
        ("action_dim", model.action_dim, len(spec.action_names)),
    ):
        if wanted != found:
            raise FoundryError(
                f"model.{key}={wanted}, but the demonstrations in {dataset.root} have {found}; "
                "make the two agree or collect them anew"
            )


def check_recomputing(config: TrainConfig, model: ModelConfig) -> None:
    """FoundryError where ``train.checkpoint_activations`` would run a pretrained backbone's blocks twice.

    Its layers put their keys and values into a cache as they run, which is what the expert reads; computed
    again in the backward pass, they would put them there again. (A frozen vlm has no backward pass.)
    """
    backbone, tuning = getattr(model, "backbone", "own"), getattr(model, "tuning", "full")
    if config.checkpoint_activations and backbone != "own" and (backbone, tuning) != ("vlm", "frozen"):
        raise FoundryError(
            f"train.checkpoint_activations=true does not go with model.backbone={backbone} and "
            f"model.tuning={tuning}; use train.accumulate or model.backbone_dtype=bfloat16 to save memory"
        )


def _tokenizer_of(folder: Path, model: ModelConfig) -> TextTokenizer | None:
    """The tokenizer of a checkpoint; FoundryError when the model has too few embeddings for it."""
    text = tokenizer_text(folder)
    if text is None:
        return None
    tokenizer = TextTokenizer.from_json(text, model.text_tokens, str(folder / TOKENIZER))
    if tokenizer.vocab_size > model.vocab_size:
        raise FoundryError(
            f"{folder / TOKENIZER} has {tokenizer.vocab_size} tokens, more than model.vocab_size="
            f"{model.vocab_size}; give the model that checkpoint's vocab_size"
        )
    return tokenizer


def split_frames(dataset: RobotDataset, config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """Frames to train on, and those of the held-out episodes."""
    count = len(dataset.episodes)
    if config.validation_episodes >= count:
        raise FoundryError(
            f"train.validation_episodes={config.validation_episodes} leaves nothing of {count} "
            "demonstrations to train on; hold out fewer"
        )
    length = dataset.episodes["length"].to_numpy()
    held = np.isin(np.arange(count), hold_out(count, config.validation_episodes, config.seed))
    frame_held = np.repeat(held, length)
    return np.flatnonzero(~frame_held), np.flatnonzero(frame_held)
