"""Pictures and masks as they are meant, whatever kind of file they come in."""

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import torch
from PIL import Image

from avcore import by_number, read_mask
from avcore.data.pictures import picture_size, read_picture
from avcore.errors import DataError
from avcore.testing.golden import real_data

SIDE = 16
HALF_YX = np.zeros((SIDE, SIDE), bool)
HALF_YX[:, : SIDE // 2] = True
HALF_YX[:4] = False

Foreground = Literal["white", "nonzero"]


def grey(value: int, kind: type[np.generic] = np.uint8) -> Image.Image:
    return Image.fromarray((HALF_YX * value).astype(kind))


def palette(index: int, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    picture = grey(index)
    entries = [colours.get(place, (0, 0, 0)) for place in range(max(colours) + 1)]
    picture.putpalette([value for entry in entries for value in entry])
    return picture


def coloured(foreground: tuple[int, ...], background: tuple[int, ...] = (0, 0, 0)) -> Image.Image:
    return Image.fromarray(np.where(HALF_YX[..., None], foreground, background).astype(np.uint8))


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (128, 0, 0)
SAID: dict[str, Callable[[], Image.Image]] = {
    "one bit": lambda: Image.fromarray(HALF_YX),
    "grey": lambda: grey(255),
    "16 bits": lambda: grey(65535, np.uint16),
    "0 and 255 of 16 bits": lambda: grey(255, np.uint16),
    "32 bits": lambda: grey(255, np.int32),
    "0 and 65535 of 32 bits": lambda: grey(65535, np.int32),
    "floats": lambda: grey(255, np.float32),
    "white on black": lambda: coloured(WHITE),
    "index 255, white": lambda: palette(255, {255: WHITE}),
    "index 255, of any colour": lambda: palette(255, {0: (0, 255, 7), 255: (255, 0, 7)}),
    "index 1, white": lambda: palette(1, {0: BLACK, 1: WHITE}),
    "transparent black": lambda: coloured((*WHITE, 255), (*BLACK, 0)),
    "opaque": lambda: coloured((*WHITE, 255), (*BLACK, 255)),
    "grey, transparent": lambda: coloured((255, 255), (0, 0)),
}
"""Files whose foreground is known."""
LABELS: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "0 and 1": (lambda: grey(1), "values 0, 1:"),
    "0 and 127": (lambda: grey(127), "values 0, 127:"),
    "0 and 254": (lambda: grey(254), "values 0, 254:"),
    "0 and 1 of 16 bits": (lambda: grey(1, np.uint16), "values 0, 1:"),
    "0 and 32767 of 32 bits": (lambda: grey(32767, np.int32), "values 0, 32767:"),
    "floats 0 and 1": (lambda: grey(1, np.float32), r"values 0\.0, 1\.0:"),
    "dark red": (lambda: coloured(RED), r"colours \(0, 0, 0\), \(128, 0, 0\):"),
    "red": (lambda: coloured((255, 0, 0)), r"colours \(0, 0, 0\), \(255, 0, 0\):"),
    "dark red, transparent": (lambda: coloured((*RED, 255), (*BLACK, 0)), r"colours \(0, 0, 0\), \(128, 0, 0\):"),
    "index 1, dark red": (lambda: palette(1, {1: RED}), "palette indices 0, 1:"),
    "index 15, white": (lambda: palette(15, {1: WHITE, 15: (192, 128, 128)}), "palette indices 0, 15:"),
    "index 1, black": (lambda: palette(1, {255: WHITE}), "palette indices 0, 1:"),
}
"""Label images, and what is said of them."""
CONTRADICTIONS: dict[str, Callable[[], Image.Image]] = {
    "background white, index 255 black": lambda: palette(255, {0: WHITE, 255: BLACK}),
    "background white, index 1 black": lambda: palette(1, {0: WHITE, 1: BLACK}),
    "transparent white": lambda: coloured((*WHITE, 255), (*WHITE, 0)),
    "opaque and transparent black": lambda: coloured((*BLACK, 255), (*BLACK, 0)),
}


def expect_half(path: Path, foreground: Foreground) -> None:
    for size, expected_YX in ((SIDE, HALF_YX), (2 * SIDE, HALF_YX.repeat(2, 0).repeat(2, 1))):
        mask_YX = read_mask(path, size, foreground=foreground)
        assert mask_YX.dtype == torch.float32
        assert np.array_equal(mask_YX, expected_YX)


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("foreground", ["white", "nonzero"])
def test_a_mask_that_says_its_foreground(tmp_path: Path, kind: str, foreground: Foreground) -> None:
    SAID[kind]().save(tmp_path / "mask.tif")
    expect_half(tmp_path / "mask.tif", foreground)


@pytest.mark.parametrize("kind", LABELS)
def test_a_label_image_is_refused_or_taken_by_what_is_not_0(tmp_path: Path, kind: str) -> None:
    make, found = LABELS[kind]
    make().save(tmp_path / "mask.tif")
    with pytest.raises(DataError, match=rf"mask\.tif' holds the {found}.*--set data\.foreground=nonzero"):
        read_mask(tmp_path / "mask.tif", SIDE)
    expect_half(tmp_path / "mask.tif", "nonzero")


@pytest.mark.parametrize("kind", CONTRADICTIONS)
@pytest.mark.parametrize("foreground", ["white", "nonzero"])
def test_a_mask_that_contradicts_itself_is_refused(tmp_path: Path, kind: str, foreground: Foreground) -> None:
    CONTRADICTIONS[kind]().save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask\.png' (has|holds)"):
        read_mask(tmp_path / "mask.png", SIDE, foreground=foreground)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "RGBA", "I;16"])
def test_an_empty_mask_is_empty(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (SIDE, SIDE)).save(tmp_path / "mask.png")
    for foreground in ("white", "nonzero"):
        assert not read_mask(tmp_path / "mask.png", SIDE, foreground=foreground).any()


def test_a_full_mask_is_full(tmp_path: Path) -> None:
    Image.new("L", (SIDE, SIDE), 255).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", SIDE).all()


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("foreground", ["white", "nonzero"])
def test_edges_that_compression_blurs_are_no_foreground(tmp_path: Path, suffix: str, foreground: Foreground) -> None:
    sharp = np.zeros((30, 30, 3), np.uint8)
    sharp[5:17, 3:21] = 255
    Image.fromarray(sharp).save(tmp_path / f"mask.{suffix}", quality=80)
    with pytest.raises(DataError, match=rf"mask\.{suffix}' has blurred edges.*PNG"):
        read_mask(tmp_path / f"mask.{suffix}", 30, foreground=foreground)


@pytest.mark.parametrize("pix_fmt", ["rgb48be", "rgba64be"])
def test_labels_in_16_bits_of_each_colour_are_not_lost(tmp_path: Path, pix_fmt: str) -> None:
    coder = av.CodecContext.create("png", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = 8, 8, pix_fmt, Fraction(1, 25)
    frame = av.VideoFrame(8, 8, pix_fmt)
    frame.planes[0].update(b"\0\1" * (frame.planes[0].buffer_size // 2))
    (tmp_path / "mask.png").write_bytes(
        b"".join(bytes(packet) for packet in [*coder.encode(frame), *coder.encode(None)])
    )
    for foreground in ("white", "nonzero"):
        with pytest.raises(DataError, match=r"mask\.png' has 16 bits for each colour"):
            read_mask(tmp_path / "mask.png", SIDE, foreground=foreground)


def test_many_values_are_counted(tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"values 0, 1, 2, 3, 4, 5, \.\.\. \(256 in all\):"):
        read_mask(tmp_path / "mask.png", SIDE)


def test_no_mask_is_read_from_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"mask\.png cannot be read as a picture"):
        read_mask(tmp_path / "mask.png", SIDE)
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        read_mask(tmp_path / "gone.png", SIDE)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    values_YX = np.linspace(0, 65535, SIDE * SIDE).round().reshape(SIDE, SIDE)
    for name, kind in (("a.png", np.uint16), ("b.tif", np.uint16), ("c.tif", ">u2"), ("d.pgm", np.uint16)):
        Image.fromarray(values_YX.astype(kind)).save(tmp_path / name)
        read_3YX = read_picture(tmp_path / name, SIDE)
        assert np.abs(read_3YX[0] - values_YX / 257).max() <= 0.51
        assert read_3YX.mean() == pytest.approx(127.5, abs=0.5)
    Image.fromarray(values_YX.astype(np.float32)).save(tmp_path / "e.tif")
    with pytest.raises(DataError, match=r"e\.tif.*floating-point"):
        read_picture(tmp_path / "e.tif", SIDE)
    Image.fromarray(values_YX.astype(np.int32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif.*numbers of 32 bits, whose white is not known"):
        read_picture(tmp_path / "f.tif", SIDE)


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda yx: yx,
    2: np.fliplr,
    3: lambda yx: np.rot90(yx, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda yx: np.rot90(yx),
    7: lambda yx: np.rot90(yx, 2).T,
    8: lambda yx: np.rot90(yx, -1),
}
"""How a camera that writes this orientation stores what it sees."""


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_and_masks_are_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    seen_YX = np.zeros((24, 40), np.uint8)
    seen_YX[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(TURNS[orientation](seen_YX))).convert("RGB").save(
        path, exif=exif, **({"quality": 100} if suffix in ("jpg", "webp") else {})
    )
    assert picture_size(path) == (40, 24)
    corners = read_picture(path, 40)[0, [4, 4, 36, 36], [4, 36, 4, 36]]
    assert (corners > 200).tolist() == [True, False, False, False]
    if suffix in ("png", "tif"):
        assert read_mask(path, 40)[[4, 4, 36, 36], [4, 36, 4, 36]].tolist() == [1, 0, 0, 0]


def test_damaged_exif_data_leave_the_picture_as_it_is(tmp_path: Path) -> None:
    seen_YX3 = np.zeros((8, 8, 3), np.uint8)
    seen_YX3[:4] = 255
    for number, exif in enumerate(
        (b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0no such thing", b"Exif\0\0II*\0\x08\0\0\0\x01\0")
    ):
        Image.fromarray(seen_YX3).save(tmp_path / f"{number}.jpg", exif=exif, quality=100)
        assert np.abs(read_picture(tmp_path / f"{number}.jpg", 8)[0].astype(int) - seen_YX3[..., 0]).max() < 3


def test_files_in_the_order_of_their_numbers() -> None:
    names = ["1.jpg", "2.jpg", "9.jpg", "10.jpg", "11.jpg", "30.jpg", "0100.jpg"]
    names += ["a/frame_2.png", "a/frame_010.png", "a/frame_11.png", "a/frame_11_2.png", "a/frame_11_10.png"]
    names += ["s2/x1.png", "s10/x1.png", "x1.png", "x2.png"]
    paths = [Path(name) for name in names]
    shuffled = list(paths)
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        assert by_number(shuffled) == sorted(paths, key=lambda path: paths.index(path))
    assert by_number([Path("1.jpg"), Path("01.jpg")]) == by_number([Path("01.jpg"), Path("1.jpg")])


def test_handed_masks_and_pictures() -> None:
    root = real_data("faults")
    expected_YX = read_mask(root / "masks" / "1bit.png", 224)
    assert expected_YX.any()
    for name, found in (("L1", "values 0, 1:"), ("RGB_VOCred128", r"colours \(0, 0, 0\), \(128, 0, 0\):")):
        with pytest.raises(DataError, match=f"{name}.png' holds the {found}"):
            read_mask(root / "masks" / f"{name}.png", 224)
        assert torch.equal(read_mask(root / "masks" / f"{name}.png", 224, foreground="nonzero"), expected_YX)
    assert read_picture(root / "pictures" / "i16.png", 64).mean() == pytest.approx(127, abs=1)
    upright_YX = np.asarray(Image.open(root / "pictures" / "exif6.jpg").convert("L").rotate(-90)) > 127
    assert ((read_picture(root / "pictures" / "exif6.jpg", 64)[0] > 127) == upright_YX).mean() > 0.99
