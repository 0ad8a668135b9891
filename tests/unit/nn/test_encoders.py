from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from cohort_engine.errors import StorageError, UnknownNameError
from cohort_engine.nn.encoders import ENCODERS, encoder_unet, load_encoder


def test_encoders_have_the_names_and_shapes_of_torchvision() -> None:
    with torch.device("meta"):
        vgg, resnet = (encoder_unet(name, 3, 9).state_dict() for name in ENCODERS)
    assert [k for k in vgg if k.startswith("encoder.") and k.endswith("weight")] == [
        f"encoder.features.{i}.weight" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    ]
    assert vgg["encoder.features.28.weight"].shape == (512, 512, 3, 3)
    assert resnet["encoder.conv1.weight"].shape == (64, 3, 7, 7)
    assert resnet["encoder.layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert resnet["encoder.layer3.5.conv2.weight"].shape == (256, 256, 3, 3)
    assert resnet["encoder.layer4.2.bn3.running_var"].shape == (2048,)
    counted = {k: v for k, v in resnet.items() if k.startswith("encoder.") and v.is_floating_point() and "running" not in k}
    assert sum(v.numel() for v in counted.values()) == 25_557_032 - 2_049_000  # torchvision's, less its classifier
    assert sum(v.numel() for k, v in vgg.items() if k.startswith("encoder.")) == 14_714_688


def test_decoders_take_the_published_numbers_of_channels() -> None:
    with torch.device("meta"):
        vgg, resnet = (encoder_unet(name, 1, 8).state_dict() for name in ENCODERS)
    assert [vgg[f"up.{i}.conv1.weight"].shape[:2] for i in range(4)] == [(64, 192), (128, 384), (256, 768), (512, 1024)]
    assert [resnet[f"up.{i}.conv1.weight"].shape[:2] for i in range(4)] == [(64, 192), (128, 512), (256, 1024), (512, 3072)]
    assert "last.conv2.weight" in resnet
    assert "last.conv2.weight" not in vgg


@pytest.mark.parametrize("name", ENCODERS)
def test_output_has_the_size_of_the_image_even_or_odd(name: str) -> None:
    net = encoder_unet(name, 2, 9, width=1 / 16)
    assert net(torch.zeros(2, 2, 33, 48)).shape == (2, 9, 33, 48)


def test_weights_of_a_file_are_taken_and_channels_of_its_first_layer_shared_out(tmp_path) -> None:
    given = encoder_unet("vgg16", 3, 2, width=1 / 16, seed=1)
    save_file(given.encoder.state_dict() | {"classifier.0.weight": torch.ones(1)}, tmp_path / "vgg.safetensors")
    net = encoder_unet("vgg16", 2, 9, width=1 / 16, seed=2)
    load_encoder(net, tmp_path / "vgg.safetensors")
    own, before = net.encoder.state_dict(), given.encoder.state_dict()
    assert torch.equal(own["features.2.weight"], before["features.2.weight"])
    assert torch.allclose(own["features.0.weight"].sum(1), before["features.0.weight"].sum(1), atol=1e-6)
    torch.save(before, tmp_path / "vgg.pt")
    load_encoder(net, tmp_path / "vgg.pt")


def test_weights_of_another_encoder_or_width_are_refused() -> None:
    net = encoder_unet("vgg16", 1, 8, width=1 / 16)
    for other in (encoder_unet("resnet50", 1, 8, width=1 / 16), encoder_unet("vgg16", 1, 8, width=1 / 8)):
        with pytest.raises(StorageError, match="same encoder"):
            load_encoder(net, other.encoder.state_dict())
    with pytest.raises(UnknownNameError, match="resnet50"):
        encoder_unet("resnet", 1, 8)


def test_narrow_nets_pass_signals_as_wide_ones_do() -> None:
    image = torch.randn(1, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    narrow, wide = (float(encoder_unet("vgg16", 1, 8, width=w, seed=3).encoder(image)[2].detach().std()) for w in (0.25, 1.0))
    assert 0.5 < narrow / wide < 4  # a factor 2^7 without the scaled deviation
