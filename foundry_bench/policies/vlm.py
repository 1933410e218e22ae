"""The vision-language model: the VLA without state, action expert and head, under the same parameter names.

So a checkpoint of it begins where a language model's ended, and a VLA begins where its ended.
"""

from __future__ import annotations

from collections.abc import Mapping

from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.encoder_checks import check_speaks
from foundry_bench.policies.sight import Sight


class VLM(Sight):
    """Language model and vision of a VLA; see answers for the loss and for answering.

    Its config is that of the whole VLA, and its fresh weights are those that the VLA's same parts would have.
    """


def make_vlm(config: VLAConfig, assets: Mapping[str, str] | None = None) -> VLM:
    """The vision-language model of a VLA's config; see `build.make_model` for ``assets``.

    Raises:
        FoundryError: a model that has no words of ours to answer with, or a pretrained part that is missing.
    """
    check_speaks(config, "a vision-language model")
    if config.vision == "stem":
        return VLM(config, assets)
    from foundry_bench.policies.encoder_vla import EncoderVLM

    return EncoderVLM(config, assets)
