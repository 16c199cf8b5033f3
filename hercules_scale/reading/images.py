"""Images decoded once, and kept small."""

from __future__ import annotations

import io
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hercules_scale.config.resources import StorageConfig
from hercules_scale.reading.image_fetching import fetch_image
from hercules_scale.sanitize import without_secrets

if TYPE_CHECKING:
    from PIL import Image

# 300 MB when decoded; an image with more pixels is a decompression bomb or a map.
MOST_PIXELS = 100_000_000
# Shorter side of a thumbnail, which the encoders get and the explorer shows.
THUMBNAIL_PIXELS = 256
JPEG_QUALITY = 92
# Images with more pixels are decoded one at a time, others by all threads.
LARGE_PIXELS = 12_000_000
# Characters of a path or URI that a message shows.
SHOWN_CHARACTERS = 200
# Depths of grey images, in bits.
DEPTHS = (8, 10, 12, 14, 16)
_one_large = threading.Lock()


class UnusableImageError(Exception):
    """An image that cannot be used; the message says why."""


def thumbnail(data: bytes) -> bytes:
    """Return a thumbnail of an image, as PNG if the image is small already, else as JPEG.

    Args:
        data: Content of a file in any format that Pillow reads; an animation counts by its first
            frame.

    Returns:
        A file with an image in RGB, upright, of at most 256 pixels on the shorter side and 1,024 on
        the longer.

    Raises:
        UnusableImageError: It is no image, is cut off, or has too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise UnusableImageError("the image is empty")
    # The number of pixels is checked here, before any is decoded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = stack.enter_context(Image.open(io.BytesIO(data)))
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise UnusableImageError(
                    f"the image has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,}"
                )
            if width * height > LARGE_PIXELS:
                stack.enter_context(_one_large)
            shortest = min(width, height)
            small = shortest <= THUMBNAIL_PIXELS and max(width, height) <= 4 * THUMBNAIL_PIXELS
            if not small:
                # JPEG can be decoded to an eighth, a quarter or a half of its size.
                opened.draft("RGB", (2 * THUMBNAIL_PIXELS, 2 * THUMBNAIL_PIXELS))
            image = as_rgb(opened)
            if not small:
                scale = THUMBNAIL_PIXELS / min(image.size)
                size = [
                    min(max(round(side * scale), 1), 4 * THUMBNAIL_PIXELS) for side in image.size
                ]
                image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    except UnidentifiedImageError:
        raise UnusableImageError("the file is not an image that can be read") from None
    except UnusableImageError:
        raise
    except Exception as error:
        # Decoders may raise any exception for damaged files: SyntaxError, struct.error, IndexError.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UnusableImageError(f"the image cannot be decoded ({reason})") from None
    out = io.BytesIO()
    if small:
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def as_rgb(opened: Image.Image) -> Image.Image:
    """Return an image of any mode in RGB, upright, on white; the open frame of an animation.

    Grey values of more than 8 bits are scaled down from the least depth of 8, 10, 12, 14 or 16 bits
    that holds the brightest. Fractions from 0 to 1 are scaled up. Values outside these ranges are
    stretched from darkest to brightest.
    """
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(opened)
    if upright.mode == "F" or upright.mode.startswith("I"):
        upright = Image.fromarray(_as_bytes(np.asarray(upright, np.float64)))
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        with_alpha = upright.convert("RGBA")
        ground = Image.new("RGBA", with_alpha.size, "white")
        upright = Image.alpha_composite(ground, with_alpha)
    return upright.convert("RGB")


def _as_bytes(grey: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return shades of grey from 0 to 255, shape (height, width)."""
    known = grey[np.isfinite(grey)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    largest = next((2.0**bits - 1 for bits in DEPTHS if high <= 2**bits - 1), high)
    if low >= 0 and high <= 1:
        largest = 1.0
    elif low < 0 or high > 2**16 - 1:
        grey, largest = grey - low, high - low
    shades = np.nan_to_num(grey, nan=0, posinf=largest, neginf=0) * (255 / max(largest, 1e-300))
    return np.clip(np.rint(shades), 0, 255).astype(np.uint8)


def read_image(
    location: str,
    folder: str,
    allowed: tuple[str, ...] = (),
    storage: StorageConfig | None = None,
) -> tuple[bytes, str]:
    """Return the bytes of an image at a path or URI, and its full path or URI.

    Args:
        location: A URI, an absolute path, or a path in ``folder``.
        folder: URI of the folder that holds the list.
        allowed: Places that may be read besides that folder; see ``fetch_image``.
        storage: Access to object stores.

    Raises:
        UnusableImageError: There is no such file, or it cannot or may not be read.
    """
    if "://" not in location and not Path(location).is_absolute():
        location = f"{folder}/{location}"
    try:
        return fetch_image(location, folder, allowed, storage), location
    except FileNotFoundError:
        raise UnusableImageError(f"there is no file {_shown(location)}") from None
    except Exception as error:
        # Every file system has its own exceptions.
        reason = " ".join(without_secrets(str(error)).split())[:120] or type(error).__name__
        raise UnusableImageError(f"{_shown(location)} cannot be read ({reason})") from None


def _shown(location: str) -> str:
    # Secrets are removed first, since a secret that is cut might not be recognised.
    return without_secrets(location)[:SHOWN_CHARACTERS]


def image_title(uri: str) -> str:
    """Return a caption of an image, from its file name."""
    stem = PurePosixPath(uri.rpartition("://")[2]).stem
    return " ".join(stem.replace("_", " ").replace("-", " ").split())
