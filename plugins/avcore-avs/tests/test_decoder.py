"""The decoder without reference files: counts, the re-associated product, the ReLU that changes maps, bookkeeping."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avcore_avs.decoder import TPAVI, AVSDecoder, ResidualUnit

REFERENCE = (64, 128, 320, 512)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(**how) -> tuple[AVSDecoder, list[Tensor], Tensor]:
    torch.manual_seed(0)
    decoder = AVSDecoder((3, 4, 5, 6), 8, audio_width=7, output_widths=(6, 4), **how).double()
    for tpavi in decoder.tpavi.values():
        torch.nn.init.normal_(tpavi.out_norm.weight)
    maps = [
        torch.randn(6, channels, side, side).double()
        for channels, side in zip((3, 4, 5, 6), (16, 8, 4, 2), strict=True)
    ]
    return decoder, maps, torch.randn(6, 7).double()


def test_parameters_add_up_to_the_published_counts() -> None:
    with torch.device("meta"):
        decoder, bare = AVSDecoder(REFERENCE), AVSDecoder(None)
    assert decoder.unused_in_reference == 1_180_160
    assert count(decoder) + decoder.unused_in_reference == 19_877_569
    assert count(bare) + bare.unused_in_reference == 10_436_289
    assert [count(block) for block in decoder.dilated] == [590_848, 1_180_672, 2_950_144, 4_719_616]
    assert count(decoder.dilated) == 9_441_280
    assert [count(block) for block in decoder.tpavi.values()] == [165_760] * 4
    assert [count(block) for block in decoder.fusion] == [2_360_320] * 3 + [1_180_160]
    assert count(decoder.prediction) == 331_969


@pytest.mark.parametrize("sound", [True, False])
def test_right_association_equals_the_naive_product(sound: bool) -> None:
    torch.manual_seed(0)
    tpavi = TPAVI(8, 7 if sound else None).double()
    x_BNC = torch.randn(2, 3 * 4 * 5, 8).double()
    aligned_BTC = torch.randn(2, 3, 8).double() if sound else None
    repeated_BNC = x_BNC if aligned_BTC is None else aligned_BTC.repeat_interleave(4 * 5, dim=1)
    attention_BNN = tpavi.theta(x_BNC) @ tpavi.phi(repeated_BNC).transpose(1, 2) / x_BNC.shape[1]
    torch.testing.assert_close(tpavi.interact(x_BNC, aligned_BTC), attention_BNN @ tpavi.g(x_BNC))


def test_tpavi_starts_as_a_layer_norm_of_its_input() -> None:
    tpavi = TPAVI(8, 7)
    x_BTCYX = torch.randn(2, 3, 8, 4, 5)
    z_BTCYX, aligned_BTC = tpavi(x_BTCYX, torch.randn(2, 3, 7))
    torch.testing.assert_close(z_BTCYX, F.layer_norm(x_BTCYX.movedim(2, -1), (8,)).movedim(-1, 2))
    assert aligned_BTC is not None
    assert aligned_BTC.shape == (2, 3, 8)


@pytest.mark.parametrize("training", [True, False])
def test_normalisation_of_rows_is_the_reference_batch_norm_3d(training: bool) -> None:
    torch.manual_seed(0)
    tpavi = TPAVI(8, 7).double().train(training)
    torch.nn.init.normal_(tpavi.out_norm.weight)
    torch.nn.init.normal_(tpavi.out_norm.bias)
    tpavi.out_norm.running_mean.normal_()
    tpavi.out_norm.running_var.uniform_(0.5, 2)
    volume = torch.nn.BatchNorm3d(8).double().train(training)
    volume.load_state_dict(tpavi.out_norm.state_dict())
    # One column: the shape at which torch's CPU BatchNorm goes wrong when memory layouts differ.
    x_BTCYX = torch.randn(2, 3, 8, 5, 1).double().requires_grad_()
    audio_BTD = torch.randn(2, 3, 7).double()
    cotangent = torch.randn_like(x_BTCYX)
    z_BTCYX, _ = tpavi(x_BTCYX, audio_BTD)
    (z_BTCYX * cotangent).sum().backward()
    got, x_BTCYX.grad = x_BTCYX.grad, None

    x_BNC = x_BTCYX.movedim(2, -1).reshape(2, -1, 8)
    y_BNC = tpavi.out(tpavi.interact(x_BNC, tpavi.align(audio_BTD)))
    y_BCTYX = y_BNC.view(2, 3, 5, 1, 8).permute(0, 4, 1, 2, 3).contiguous()
    mean = y_BCTYX.mean((0, 2, 3, 4), keepdim=True) if training else volume.running_mean.view(1, 8, 1, 1, 1)
    var = y_BCTYX.var((0, 2, 3, 4), keepdim=True, correction=0) if training else volume.running_var.view(1, 8, 1, 1, 1)
    plain = (y_BCTYX - mean) / (var + volume.eps).sqrt() * volume.weight.view(1, 8, 1, 1, 1)
    plain = plain + volume.bias.view(1, 8, 1, 1, 1)
    torch.testing.assert_close(plain, volume(y_BCTYX))
    wanted_BTCYX = tpavi.norm(x_BTCYX.movedim(2, -1) + plain.permute(0, 2, 3, 4, 1)).movedim(-1, 2)
    (wanted_BTCYX * cotangent).sum().backward()
    torch.testing.assert_close(z_BTCYX, wanted_BTCYX)
    torch.testing.assert_close(got, x_BTCYX.grad)
    torch.testing.assert_close(tpavi.out_norm.running_var, volume.running_var)


def test_skip_of_a_residual_unit_is_rectified() -> None:
    unit = ResidualUnit(4)
    for parameter in unit.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(unit(x), x.relu())


def test_returned_maps_are_those_after_tpavi_and_the_in_place_relu() -> None:
    decoder, maps, audio = small(tpavi_stages=(1,))
    decoder.eval()
    out = decoder(maps, audio, 3)
    assert out.logits.shape == (6, 1, 64, 64)
    assert list(out.audio) == [1]
    first = decoder.dilated[0](maps[0])
    assert (first < 0).any()
    torch.testing.assert_close(out.maps[0], first.relu())
    refined, _ = decoder.tpavi["1"](decoder.dilated[1](maps[1]).unflatten(0, (2, 3)), audio.unflatten(0, (2, 3)))
    torch.testing.assert_close(out.maps[1], refined.flatten(0, 1).relu())


def test_decoding_fewer_frames_gives_the_same_logits_and_gradients() -> None:
    decoder, maps, audio = small()
    first = decoder(maps, audio, 3).logits.unflatten(0, (2, 3))[:, 0]
    wanted = torch.autograd.grad(first.square().sum(), list(decoder.parameters()))
    fewer = decoder(maps, audio, 3, decoded=1).logits
    torch.testing.assert_close(fewer, first)
    for got, reference in zip(
        torch.autograd.grad(fewer.square().sum(), list(decoder.parameters())), wanted, strict=True
    ):
        torch.testing.assert_close(got, reference)


def test_without_sound_tpavi_has_no_audio_map_and_every_parameter_is_used() -> None:
    torch.manual_seed(0)
    decoder = AVSDecoder((3, 4, 5, 6), 8, audio_width=None, output_widths=(6, 4))
    maps = [torch.randn(2, channels, side, side) for channels, side in zip((3, 4, 5, 6), (16, 8, 4, 2), strict=True)]
    out = decoder(maps, None, 2)
    assert out.audio == {}
    out.logits.sum().backward()
    assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []


def test_tpavi_mixes_frames_of_a_clip_and_no_clips() -> None:
    decoder, maps, audio = small()
    decoder.eval()
    before = decoder(maps, audio, 3).logits
    changed = audio.clone()
    changed[1] += 1  # frame 1 of clip 0
    moved = (decoder(maps, changed, 3).logits - before).abs().amax((1, 2, 3))
    assert (moved[:3] > 0).all()
    assert (moved[3:] == 0).all()
