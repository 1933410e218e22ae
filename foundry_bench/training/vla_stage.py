"""The ``vla`` stage: robot demonstrations to batches, and the VLA's loss on them.

A batch: images uint8 (B, C, S, S, 3), or kept features of a frozen encoder (see feature_cache), state
(B, state_dim) and actions (B, horizon, action_dim) normalised,
action_mask (B, horizon) false after the episode's end, tokens and token_mask (U, text_tokens) of the U
distinct instructions, inverse (B,) each row's instruction among them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import foundry_bench
from foundry_bench.errors import FoundryError
from foundry_bench.policies.build import make_model, make_tokenizer, read_tokenizer
from foundry_bench.policies.checkpoint import (
    NORMALIZATION,
    TOKENIZER,
    Checkpoint,
    save_checkpoint,
)
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.normalization import Normalizer, clip_state
from foundry_bench.policies.vla import VLA
from foundry_bench.policies.vla_policy import VLAPolicy
from foundry_bench.training.augment import shift_images
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.feature_cache import FeatureCache
from foundry_bench.training.order import AUGMENT, SampleOrder, generator, hold_out
from foundry_bench.training.stage import Batch

if TYPE_CHECKING:
    from foundry_bench.data.reader import RobotDataset

VALIDATION_FRAMES = 256


class VLAStage:
    """See stage.Stage."""

    model: VLA

    def __init__(
        self,
        config: TrainConfig,
        model_config: VLAConfig,
        dataset: RobotDataset,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """``files``: normalization and tokenizer of the run that is resumed; computed where absent."""
        check_fit(model_config, dataset)
        self.config, self.model_config, self.dataset = config, model_config, dataset
        instructions = sorted(set(dataset.episodes["instruction"]))
        if files is None:
            self.normalizer = Normalizer.fit(
                dataset.statistics(), model_config.state_normalization, model_config.action_normalization
            )
            self.tokenizer = make_tokenizer(model_config, instructions)
        else:
            self.normalizer = Normalizer.from_json(files[NORMALIZATION])
            self.tokenizer = read_tokenizer(model_config, files)
        self._number = {text: number for number, text in enumerate(instructions)}
        self._tokens, self._token_mask = self.tokenizer.encode(instructions)
        train, self._held_out = split_frames(dataset, config)
        self._order = SampleOrder(train, config.batch_size, config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = make_model(model_config, files)
        self._features: FeatureCache | None = None

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
            **self.model.assets,
        }

    def keep_features(self, device: torch.device, progress: bool = True) -> None:
        """Compute what the frozen vision encoder gives for every frame, or read it where it was kept before.

        From then on batches hold these features in the place of images.

        Raises:
            FoundryError: there is no frozen vision encoder, or the features exceed train.feature_gib.
        """
        self._features = FeatureCache.of(self.model.to(device), self.dataset, self.config, progress)

    def batch(self, step: int) -> Batch:
        """See Stage.batch."""
        raw = self.dataset.batch(self._order.batch(step), self.model_config.horizon)
        chance = generator(self.config.seed, AUGMENT, step)
        images = np.stack([raw["images"][camera] for camera in self.model_config.cameras], axis=1)
        if self._features is not None:
            images = self._features.draw(self._order.batch(step), chance)
        elif self.config.shift:
            flat = images.reshape(-1, *images.shape[2:])
            shifts = chance.integers(-self.config.shift, self.config.shift + 1, (len(flat), 2))
            images = shift_images(flat, shifts).reshape(images.shape)
        state = self.normalizer.state.apply(raw["state"])
        state += self.config.state_noise * chance.standard_normal(state.shape, dtype=np.float32)
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

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See Stage.loss."""
        return self.model.loss(batch, generator)

    def validate(self, averaged: nn.Module) -> Mapping[str, float]:
        """Mean absolute error of sampled actions on held-out episodes, and how often the gripper is right."""
        if not len(self._held_out):
            return {}
        assert isinstance(averaged, VLA)
        policy = VLAPolicy(
            averaged, self.normalizer, self.tokenizer, device=str(next(averaged.parameters()).device)
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
                self.model.assets,
            ),
        )


def check_fit(model: VLAConfig, dataset: RobotDataset) -> None:
    """FoundryError when the model wants cameras, pixels or sizes that the demonstrations do not have."""
    spec = dataset.spec
    missing = [camera for camera in model.cameras if camera not in spec.cameras]
    if missing:
        raise FoundryError(
            f"model.cameras has '{missing[0]}', the demonstrations in {dataset.root} have "
            f"{list(spec.cameras)}; change model.cameras or collect them anew"
        )
    if model.observation_steps > 1:
        raise FoundryError(
            f"model.observation_steps={model.observation_steps}: training shows the present frame only; use 1"
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
