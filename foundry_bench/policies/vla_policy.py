"""A trained model as a policy: observations in, action chunks in the environment's units out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_model import ActionModel, InstructionFeatures, InstructionTokenizer
from foundry_bench.policies.base import rows
from foundry_bench.policies.normalization import Normalizer, clip_state

ROWS = 4  # every pass has this many rows, so that no result depends on how many were asked for
CACHED_INSTRUCTIONS = 256


def pick_device(device: str) -> torch.device:
    """``auto`` is a GPU where there is one; FoundryError when the one asked for cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.zeros(1, device=picked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise FoundryError(
            f"device={device} cannot be used ({reason}); use device=auto or device=cpu"
        ) from error
    return picked


class VLAPolicy:
    """Predicts chunks with a trained model, a VLA or a baseline (see base.Policy and action_model).

    Non-obvious behaviours: observations are evaluated ``ROWS`` at a time, short batches filled up, and
    instructions one at a time, so a row's chunk has the same bits whatever its neighbours; observations
    are encoded once per chunk and only what reads them runs in the denoising steps; no global random state is
    used.
    """

    def __init__(
        self,
        model: ActionModel,
        normalizer: Normalizer,
        tokenizer: InstructionTokenizer,
        *,
        checkpoint_hash: str = "unsaved",
        device: str = "auto",
    ) -> None:
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        self.normalizer, self.tokenizer = normalizer, tokenizer
        self.name = model.config.name
        self.spec = model.config.spec()
        self.checkpoint_hash = checkpoint_hash
        self._texts: OrderedDict[str, InstructionFeatures] = OrderedDict()

    @torch.inference_mode()
    def predict(self, observations: dict[str, Any], noise_seeds: Sequence[int]) -> np.ndarray:
        """See base.Policy.predict; FoundryError when images or state are not what the spec says."""
        count = rows(observations, noise_seeds)
        images = self._images(observations, count)
        state = np.asarray(observations["state"], dtype=np.float32)
        if state.shape != (count, self.spec.state_dim):
            raise FoundryError(
                f"policy {self.name} wants states of {self.spec.state_dim} numbers, got {list(state.shape)}"
            )
        state = clip_state(self.normalizer.state.apply(state))
        instructions = list(observations["instruction"])
        chunks = np.empty((count, self.spec.horizon, self.spec.action_dim), dtype=np.float32)
        for start in range(0, count, ROWS):
            pick = [min(row, count - 1) for row in range(start, start + ROWS)]
            predicted = self._chunks(
                images[pick],
                state[pick],
                [instructions[row] for row in pick],
                [noise_seeds[row] for row in pick],
            )
            stop = min(start + ROWS, count)
            chunks[start:stop] = predicted[: stop - start]
        return np.clip(self.normalizer.action.invert(chunks), -1.0, 1.0)

    def _chunks(
        self, images: np.ndarray, state: np.ndarray, instructions: list[str], seeds: list[int]
    ) -> np.ndarray:
        """Normalised chunks (ROWS, horizon, action_dim)."""
        features = [self._text(instruction) for instruction in instructions]
        text = features[0].joined(features)
        encoded = self.model.encode(
            torch.from_numpy(images).to(self.device), torch.from_numpy(state).to(self.device), text
        )
        shape = (self.spec.horizon, self.spec.action_dim)
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(_seed(seed))) for seed in seeds]
        )
        return self.model.sample(encoded, noise.to(self.device)).float().cpu().numpy()

    def _text(self, instruction: str) -> InstructionFeatures:
        """Features of one instruction, from the cache of the last few hundred."""
        if instruction not in self._texts:
            tokens, mask = self.tokenizer.encode([instruction])
            self._texts[instruction] = self.model.read_instructions(
                torch.from_numpy(tokens).to(self.device), torch.from_numpy(mask).to(self.device)
            )
            if len(self._texts) > CACHED_INSTRUCTIONS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(instruction)
        return self._texts[instruction]

    def _images(self, observations: dict[str, Any], count: int) -> np.ndarray:
        """All cameras of all rows, uint8 (B, C, S, S, 3), or FoundryError naming the camera that differs."""
        size = self.spec.image_size
        for camera in self.spec.cameras:
            if camera not in observations:
                raise FoundryError(
                    f"policy {self.name} was trained with camera '{camera}', which the observations do not "
                    "have; use a protocol with its cameras"
                )
            image = observations[camera]
            if np.shape(image) != (count, size, size, 3) or image.dtype != np.uint8:
                raise FoundryError(
                    f"policy {self.name} wants camera '{camera}' as uint8 {[count, size, size, 3]}, got "
                    f"{image.dtype} {list(np.shape(image))}; use protocol.image_size={size}"
                )
        return np.stack([observations[camera] for camera in self.spec.cameras], axis=1)


def _seed(seed: int) -> int:
    return int(seed) & 0x7FFF_FFFF_FFFF_FFFF
