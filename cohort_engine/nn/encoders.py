"""U-Nets on the encoders VGG16 and ResNet50, with the parameter names of torchvision, for any number of input channels and narrower ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cohort_engine.errors import StorageError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

VGG16, RESNET50 = "vgg16", "resnet50"
ENCODERS: Final = (VGG16, RESNET50)
DEVIATION: Final = 0.02
"""Deviation of the initial weights at full width, as in the released code of the DTI study."""
_STEPS: Final = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions of each level of VGG16 and their width."""
_LAYERS: Final = ((3, 64), (4, 128), (6, 256), (3, 512))
"""Bottlenecks of each layer of ResNet50 and their width."""
_DECODER: Final = (64, 128, 256, 512)
_EXPANSION: Final = 4


def encoder_unet(encoder: str, inputs: int, outputs: int, *, width: float = 1.0, seed: int = 0) -> nn.Module:
    """Build a U-Net on an encoder: features of five levels, each enlarged bilinearly and convolved twice together with the one above, logits out.

    The way down has torchvision's names below ``encoder.``: ``features.0.weight`` of VGG16, ``layer1.0.conv1.weight`` of ResNet50; classifiers are
    left out. ResNet50 halves the image before its first features, so one more enlargement follows. Any image size will do: what is enlarged takes the
    size of the level above.

    Parameters
    ----------
    encoder : str
        ``"vgg16"`` (without batch normalisation) or ``"resnet50"``.
    inputs, outputs : int
        Channels.
    width : float
        Of all layers, as a share of the published ones.
    seed : int
        Of the initial weights: normal, deviation 0.02 at full width, and larger by one over the root of the width at others, so that signals pass the
        layers as they do at full width; the global random state stays as it was.

    Examples
    --------
    >>> import torch
    >>> net = encoder_unet("vgg16", 1, 8, width=1 / 16)
    >>> tuple(net(torch.zeros(2, 1, 48, 48)).shape), tuple(net.state_dict()["encoder.features.0.weight"].shape)
    ((2, 8, 48, 48), (4, 1, 3, 3))
    """
    import torch
    from torch import nn
    from torch.nn.functional import interpolate, relu

    if encoder not in ENCODERS:
        raise unknown_name("encoder", encoder, list(ENCODERS), where="network")

    def wide(channels: int) -> int:
        return max(1, round(channels * width))

    class Up(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)

        def forward(self, x: Tensor, size: Any, beside: tuple[Tensor, ...]) -> Tensor:
            x = interpolate(x, size=size, mode="bilinear", align_corners=True)
            return relu(self.conv2(relu(self.conv1(torch.cat([*beside, x], 1)))))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = _vgg16(inputs, wide) if encoder == VGG16 else _resnet50(inputs, wide)
            above = [wide(w) for w in (64, 128, 256, 512, 512)] if encoder == VGG16 else [wide(64), *(wide(w) * _EXPANSION for _, w in _LAYERS)]
            below = [*(wide(w) for w in _DECODER[1:]), above[-1]]
            self.up = nn.ModuleList(Up(a + b, wide(w)) for a, b, w in zip(above, below, _DECODER, strict=False))
            self.last = Up(wide(64), wide(64)) if encoder == RESNET50 else None
            self.head = nn.Conv2d(wide(64), outputs, 1)

        def forward(self, image: Tensor) -> Tensor:
            *kept, x = self.encoder(image)
            for up, beside in zip(reversed(self.up), reversed(kept), strict=True):
                x = up(x, beside.shape[-2:], (beside,))
            if self.last is not None:
                x = self.last(x, image.shape[-2:], ())
            logits: Tensor = self.head(x)
            return logits

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, DEVIATION / width**0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return net


def _vgg16(inputs: int, wide: Any) -> nn.Module:
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts: list[nn.Module] = []
            before = inputs
            for level, (convolutions, channels) in enumerate(_STEPS):
                parts += [nn.MaxPool2d(2)] if level else []
                for _ in range(convolutions):
                    parts += [nn.Conv2d(before, wide(channels), 3, padding=1), nn.ReLU(inplace=True)]
                    before = wide(channels)
            self.features = nn.Sequential(*parts)

        def forward(self, x: Tensor) -> list[Tensor]:
            kept = []
            for part in self.features:
                if isinstance(part, nn.MaxPool2d):
                    kept.append(x)
                x = part(x)
            return [*kept, x]

    return Encoder()


def _resnet50(inputs: int, wide: Any) -> nn.Module:
    from torch import nn
    from torch.nn.functional import relu

    class Bottleneck(nn.Module):
        def __init__(self, before: int, channels: int, stride: int) -> None:
            super().__init__()
            after = channels * _EXPANSION
            self.conv1, self.bn1 = nn.Conv2d(before, channels, 1, bias=False), nn.BatchNorm2d(channels)
            self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
            self.conv3, self.bn3 = nn.Conv2d(channels, after, 1, bias=False), nn.BatchNorm2d(after)
            same = stride == 1 and before == after
            self.downsample = None if same else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

        def forward(self, x: Tensor) -> Tensor:
            y = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
            return relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, wide(64), 7, 2, 3, bias=False), nn.BatchNorm2d(wide(64))
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            before = wide(64)
            for i, (blocks, channels) in enumerate(_LAYERS):
                layer = []
                for block in range(blocks):
                    layer.append(Bottleneck(before, wide(channels), 2 if i and not block else 1))
                    before = wide(channels) * _EXPANSION
                setattr(self, f"layer{i + 1}", nn.Sequential(*layer))

        def forward(self, x: Tensor) -> list[Tensor]:
            kept = [relu(self.bn1(self.conv1(x)))]
            x = self.maxpool(kept[0])
            for i in range(len(_LAYERS)):
                x = getattr(self, f"layer{i + 1}")(x)
                kept.append(x)
            return kept

    return Encoder()


def load_encoder(net: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> None:
    """Put weights with torchvision's names into the way down of a U-Net; those of a classifier are left aside.

    Parameters
    ----------
    net : nn.Module
        From `encoder_unet`.
    weights : path or mapping
        A file of safetensors, or of torch (only tensors are read from it), or the tensors. Where the first convolution of the file sees three
        channels and the network's another number, each of its channels gets the mean of the three, scaled so that equal images give the same sum.

    Raises
    ------
    StorageError
        The weights are another encoder's, or of another width.
    """
    import torch

    tensors: Mapping[str, Tensor]
    if not isinstance(weights, str | Path):
        tensors = weights
    elif Path(weights).suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(weights)
    else:
        tensors = torch.load(weights, map_location="cpu", weights_only=True)
    encoder: Any = net.encoder
    own = encoder.state_dict()
    first = next(iter(own))
    given = {k: v for k, v in tensors.items() if k in own}
    if first in given and given[first].shape[1] != own[first].shape[1]:
        seen = given[first].shape[1]
        given[first] = given[first].mean(1, keepdim=True).repeat(1, own[first].shape[1], 1, 1) * (seen / own[first].shape[1])
    wrong = [k for k, v in own.items() if not k.endswith("num_batches_tracked") and (k not in given or given[k].shape != v.shape)]
    if wrong:
        found = tuple(given[wrong[0]].shape) if wrong[0] in given else "none"
        raise StorageError(
            expected=f"{wrong[0]} of shape {tuple(own[wrong[0]].shape)}", found=f"{found} ({len(wrong)} of {len(own)} do not fit)",
            where="weights of the encoder", remedy="Give weights of the same encoder and width, named as torchvision names them.",
        )  # fmt: skip
    encoder.load_state_dict(given, strict=False)
