# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Files with any number of bands reach the model with the values they were written with."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from detectron2.data.detection_utils import read_image
from PIL import Image

from mrcnn_ext.data.image_file import ImageReader, displayed, read_picture
from mrcnn_ext.data.stored_image import open_image
from mrcnn_ext.errors import ConfigError, DataError
from tests.data.band_cases import pixels, write

TYPES = ["uint8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_every_type_and_number_of_bands(tmp_path, kind, bands, suffix):
    image = pixels(bands, kind, high=250 if kind == "uint8" else 2000)
    path = write(tmp_path / f"a{suffix}", image)
    stored = open_image(path)
    assert (stored.height, stored.width, stored.bands, stored.pixel_type) == (*image.shape, kind)
    assert (stored.values() == image).all()
    chosen = list(range(bands))[::-2]
    read = ImageReader(bands=tuple(chosen), pixel_type=kind)(path)
    assert read.dtype == (np.uint8 if kind == "uint8" else np.float32)
    assert (read == image[..., chosen].astype(np.float32)).all()


@pytest.mark.parametrize("bands", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate"}, {"compression": "deflate"}, {"photometric": "rgb"},
        {"tile": (16, 16)}, {"byteorder": ">"}, {"bigtiff": True}, {"photometric": "pages"},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_layouts_of_tiff(tmp_path, bands, options):
    image = pixels(bands, "uint16", high=60000)
    path, given = tmp_path / "a.tif", dict(options)
    if given.get("photometric") == "rgb" and bands < 3:
        given = {}
    planes = image.transpose(2, 0, 1)
    if given.get("photometric") == "pages":
        tifffile.imwrite(path, planes, photometric="minisblack")
    elif "planarconfig" in given:
        tifffile.imwrite(path, planes, photometric="minisblack", planarconfig="separate")
    else:
        byteorder, bigtiff = given.pop("byteorder", None), given.pop("bigtiff", False)
        layout = {"photometric": "minisblack", "planarconfig": "contig"} | given
        tifffile.imwrite(path, image, byteorder=byteorder, bigtiff=bigtiff, **layout)
    assert (open_image(path).values() == image).all()


def test_compressions_that_need_imagecodecs(tmp_path, monkeypatch):
    pytest.importorskip("imagecodecs")
    image = pixels(5, "uint16", high=60000)
    path = write(tmp_path / "a.tif", image, compression="lzw", predictor=True)
    assert (open_image(path).values() == image).all()


def test_a_tiff_of_many_pixels_or_files_is_read_by_itself(tmp_path, monkeypatch):
    image = pixels(5, "uint16")
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, image.transpose(2, 0, 1), photometric="minisblack", metadata={"axes": "CYX"}
    )
    assert (open_image(path).values() == image).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    many = write(tmp_path / "b.tif", pixels(5, "uint16"))  # which Pillow does not open
    for file in (path, many):
        with pytest.raises(DataError, match="has more than 0 million pixels: reduce it, or cut it"):
            open_image(file)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_8_bits(tmp_path, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    picture = Image.fromarray(pixels(3, high=250)).convert(mode)
    picture.save(tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        expected = np.asarray(image.convert({"P": "RGB", "1": "L"}.get(mode, mode)))
    found = open_image(tmp_path / f"a{suffix}").values()
    assert found.dtype == np.uint8
    assert (found == expected.reshape(found.shape)).all()


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_png_with_16_bits(tmp_path, bands):
    """Written by hand: OpenCV and Pillow have no grey with alpha."""
    image = pixels(bands, "uint16", high=65000)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = image.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    stored = open_image(path)
    assert (stored.bands, stored.pixel_type) == (bands, "uint16")
    assert (stored.values() == image).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_turns_as_in_detectron2(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels(3)).save(path, exif=exif.tobytes())
    stored, expected = open_image(path), read_image(str(path), "RGB")
    assert (stored.values() == expected).all()
    assert (stored.height, stored.width) == expected.shape[:2]


def test_exif_turns_many_bands(tmp_path):
    image = pixels(5, "uint16")
    tags = [(274, "H", 1, 6, True)]
    path = write(tmp_path / "a.tif", image, extratags=tags)
    turned = open_image(path)
    assert (turned.values() == np.rot90(image, -1)).all()
    assert (turned.height, turned.width) == image.shape[1::-1]


def test_without_bands_it_is_detectron2s(tmp_path):
    path = write(tmp_path / "a.png", pixels(3))
    for order in ("BGR", "RGB", "L"):
        assert (ImageReader(order)(path) == read_image(str(path), order)).all()
    reader = ImageReader("BGR", (2, 1, 0))  # the same by band
    assert (reader(path) == read_image(str(path), "BGR")).all()


def test_npy_is_mapped_and_never_unpickled(tmp_path):
    image = pixels(6, "float32")
    stored = open_image(write(tmp_path / "a.npy", image))
    assert isinstance(stored.read(), np.memmap)
    assert (
        open_image(write(tmp_path / "g.npy", image[..., 0])).values()[..., 0] == image[..., 0]
    ).all()
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"o\.npy: cannot be read: ValueError"):
        ImageReader(bands=(0,))(tmp_path / "o.npy")
    np.save(tmp_path / "o.npy", np.zeros((4, 5), [("a", "u2"), ("b", "u2")]))
    with pytest.raises(DataError, match=r"o\.npy: holds an array of .*; expected numbers\.$"):
        read_picture(tmp_path / "o.npy")
    np.save(tmp_path / "o.npy", np.zeros((0, 5, 3)))
    with pytest.raises(DataError, match=r"holds an empty array \(0, 5, 3\)"):
        read_picture(tmp_path / "o.npy")
    (tmp_path / "o.npy").write_bytes(b"\x80\x04}.")  # a pickle: no advice to trust it
    with pytest.raises(DataError, match=r"o\.npy: is no npy file: it does not begin as np.save"):
        ImageReader(bands=(0,))(tmp_path / "o.npy")
    np.save(tmp_path / "4.npy", np.zeros((2, 3, 4, 5)))
    with pytest.raises(
        DataError, match=r"holds an array \(2, 3, 4, 5\); expected \(height, width\)"
    ):
        ImageReader(bands=(0,))(tmp_path / "4.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": (0, 5)}, r"a\.tif: has 5 bands, but MRCNN_EXT.DATA.BANDS is \[0, 5\]; expected"),
        ({"pixel_type": "uint8"}, r"a\.tif: has pixels of uint16, but MRCNN_EXT.DATA.PIXEL_TYPE is 'u"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind(tmp_path, change, message):
    path = write(tmp_path / "a.tif", pixels(5, "uint16"))
    reader = ImageReader(**{"bands": (0, 1), "pixel_type": "uint16", **change})
    with pytest.raises(DataError, match=message):
        reader(path)


@pytest.mark.parametrize("kind", ["bool", "uint8", "uint16"])
def test_values_where_white_is_zero_are_as_stored(tmp_path, kind):
    image = pixels(1, "uint8")[..., 0]
    image = image > 100 if kind == "bool" else image.astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite")
    found = open_image(tmp_path / "a.tif").values()[..., 0]
    assert (found == (image * np.uint8(255) if kind == "bool" else image)).all()


def test_files_that_cannot_be_read(tmp_path):
    reader = ImageReader(bands=(0,), pixel_type="uint16")
    with pytest.raises(DataError, match=r"none\.tif: cannot be read: No such file"):
        reader(tmp_path / "none.tif")
    (tmp_path / "a.tif").write_text("no image")
    with pytest.raises(DataError, match=r"a\.tif: is no npy file, and no image that can be read"):
        reader(tmp_path / "a.tif")
    path = write(tmp_path / "b.tif", pixels(5, "uint16"))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"b\.tif: cannot be read"):
        reader(path)
    image = pixels(2, "float32")
    image[3, 4, 1] = np.nan
    path = write(tmp_path / "c.npy", image)
    assert ImageReader(bands=(0,), pixel_type="float32")(path).shape == (40, 52, 1)
    with pytest.raises(DataError, match=r"c\.npy: 1 of its 2080 pixels are NaN or infinite"):
        ImageReader(bands=(1,), pixel_type="float32")(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bands": (0, 0)}, "the mapper's bands is .*expected a list of different bands"),
        ({"bands": (0,), "pixel_type": "unit8"}, "pixel_type is 'unit8'.*similar: 'uint8'"),
        ({"bands": (0, 1), "rgb_bands": (0, 1, 2)}, "rgb_bands is .*expected three of"),
        ({"pixel_type": "uint16"}, r"pixel_type is 'uint16', but .* is \[\]"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ImageReader(**arguments)


def test_without_tifffile_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", pixels(5, "uint16"))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match="pip install tifffile imagecodecs"):
        ImageReader(bands=(0,), pixel_type="uint16")(path)


# ------------------------------------------------------------------------------------ to look at


def test_bands_are_shown_by_a_rule(tmp_path):
    image = pixels(5, "uint16", high=50000)
    low, high = np.percentile(image[..., 3], (2, 98))
    reader = ImageReader(bands=(4, 3, 2, 1), pixel_type="uint16", rgb_bands=(3, 2, 4))
    path = write(tmp_path / "a.tif", image)
    shown = reader.shown(reader(path))
    expected = ((image[..., 3] - low) * 255 / (high - low)).clip(0, 255)
    assert abs(shown[..., 0] - expected).max() <= 1
    assert (read_picture(path, reader) == shown).all()
    # Nobody says which: the first three, or the first one as grey.
    assert (displayed(image, [0, 1, 2]) == read_picture(path)).all()
    file = write(tmp_path / "g.png", image[..., :1])  # which Detectron2 cuts off at 255
    assert (read_picture(file) == displayed(image, [0])).all()
    grey = displayed(image[..., :2], [0])
    assert (grey[..., 0] == grey[..., 2]).all()
    assert (displayed(np.full((4, 5, 1), 7.0), [0]) == 0).all()


def test_pictures_of_8_bits_are_shown_as_they_are(tmp_path):
    image = pixels(3)
    path = write(tmp_path / "a.png", image)
    for reader in (ImageReader("BGR"), ImageReader("RGB"), ImageReader(bands=(0, 1, 2))):
        assert (reader.shown(reader(path)) == image).all()
        assert (read_picture(path, reader) == image).all()
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "none.png")


def test_frames_of_a_video():
    frame = pixels(3)
    assert (ImageReader(bands=(0, 2)).of_frame(frame, "v.mp4") == frame[..., [2, 0]]).all()
    with pytest.raises(DataError, match=r"v\.mp4: a video has 3 bands of uint8"):
        ImageReader(bands=(3,)).of_frame(frame, "v.mp4")


def test_opencv_and_pillow_are_not_asked_for_what_they_change(tmp_path):
    """Why TIFF is tifffile's: OpenCV 5 mixes up planes of colours without a word."""
    image = pixels(3, "uint16", high=60000)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    by_opencv = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    with Image.open(io.BytesIO(data.tobytes())) as picture:
        by_pillow = np.asarray(picture)
    assert by_pillow.dtype == np.uint8
    assert by_opencv is None or not (by_opencv[..., ::-1] == image).all()
    assert (open_image(path).values() == image).all()
