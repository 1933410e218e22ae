"""The vision-language model: the VLA without state, action expert and head, under the same parameter names.

So a checkpoint of it begins where a language model's ended, and a VLA begins where its ended.
"""

from __future__ import annotations

from torch import Tensor, nn

from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.vla import VLA, TextFeatures


class VLM(nn.Module):
    """Language model and vision of a VLA; see answers for the loss and for answering.

    Args:
        config: of the whole VLA. Its fresh weights here are those that the VLA's same parts would have.
    """

    def __init__(self, config: VLAConfig) -> None:
        super().__init__()
        whole = VLA(config)
        self.config, self.language, self.stems = config, whole.language, whole.stems

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> TextFeatures:
        """See VLA.read_instructions; here it reads questions."""
        return VLA.read_instructions(self, tokens_UT, mask_UT)  # type: ignore[arg-type]
