"""Image encoders: a small convolutional network that pip installs, or any CLIP-like model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hercules_scale.config.resources import StorageConfig
from hercules_scale.embedding.encoder import ImageEncoder
from hercules_scale.embedding.sentence_transformer import choose_device, in_halves
from hercules_scale.errors import ConfigError
from hercules_scale.models.aliases import DEFAULT_IMAGE_MODEL, IMAGE_ALIASES
from hercules_scale.models.names import resolve_image_model
from hercules_scale.storage.stored_models import local_model

Precision = Literal["auto", "float32", "bfloat16"]
BATCH_IMAGES = 32
# Input size of EfficientNet-Lite0, step of smaller sizes and least size. Small images are enlarged
# to about twice their size only, since larger ones cost time.
LITE_PIXELS, LITE_STRIDE, LITE_LEAST_PIXELS = 224, 32, 64


def load_image_encoder(
    model: str | None, precision: Precision = "auto", storage: StorageConfig | None = None
) -> ImageEncoder:
    """Return an encoder by alias, folder or model-hub id.

    Args:
        model: Alias, folder or model-hub id; by default efficientnet-lite0.
        precision: ``auto`` takes bfloat16 where the device computes in it.
        storage: Access to the model where it lies on an object store.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    name = model or DEFAULT_IMAGE_MODEL
    if name in IMAGE_ALIASES:
        return EfficientNetLite(precision)
    return SharedSpaceEncoder(name, precision, storage)


class EfficientNetLite:
    """EfficientNet-Lite0, trained on ImageNet; the mean of its last feature map.

    Images are scaled to its own 224 pixels, but images below 112 only to about twice their size.

    Raises:
        ConfigError: Its packages are not installed.

    Source: Tan and Le, "EfficientNet" (2019); the Lite variants have ReLU6 and no squeeze.
    """

    dimension = 1280

    def __init__(self, precision: Precision = "auto") -> None:
        import torch

        weights = resolve_image_model(DEFAULT_IMAGE_MODEL)
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise ConfigError(
                "embedding.model efficientnet-lite0 needs the package efficientnet-lite-pytorch; "
                "install it, or give a folder or a model-hub id"
            ) from None
        self._device, chosen = choose_device(precision)
        self._dtype = getattr(torch, chosen)
        model = EfficientNet.from_name(DEFAULT_IMAGE_MODEL)
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        model = model.eval().to(self._device, self._dtype)
        self._model = model.to(memory_format=torch.channels_last)

    def encode(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the vectors of unit length, shape (n, 1280)."""
        import torch

        vectors = np.empty((len(images), self.dimension), np.float32)
        # Images of one size are encoded together, so that no vector depends on other images.
        sizes = np.array([_lite_size(data) for data in images])
        with torch.inference_mode():
            for size in np.unique(sizes).tolist():
                rows = np.flatnonzero(sizes == size)
                for start in range(0, len(rows), BATCH_IMAGES):
                    batch = rows[start : start + BATCH_IMAGES]
                    in_halves(partial(self._encode_rows, images, size, vectors), batch)
        return vectors

    def _encode_rows(
        self,
        images: Sequence[bytes],
        size: int,
        vectors: NDArray[np.float32],
        rows: NDArray[np.int64],
    ) -> None:
        """Write the vectors of some images, each cut to a square of ``size`` pixels."""
        import torch

        pixels = np.stack([_square(images[row], size) for row in rows])
        values = torch.from_numpy(pixels).to(self._device, self._dtype)
        values = ((values - 127.0) / 128.0).permute(0, 3, 1, 2)
        features = self._model.extract_features(values).float().mean(dim=(2, 3))
        vectors[rows] = torch.nn.functional.normalize(features, dim=1).cpu().numpy()


def _lite_size(data: bytes) -> int:
    from PIL import Image

    shortest = min(Image.open(io.BytesIO(data)).size)
    size = -(-2 * shortest // LITE_STRIDE) * LITE_STRIDE
    return min(max(size, LITE_LEAST_PIXELS), LITE_PIXELS)


def _square(data: bytes, size: int) -> NDArray[np.uint8]:
    """Return the central square of an image, scaled, shape (size, size, 3)."""
    from PIL import Image, ImageOps

    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


class SharedSpaceEncoder:
    """A CLIP- or SigLIP-like sentence-transformers model: its texts share the images' space.

    Args:
        model: A local folder, its URI, or a model-hub id.
        precision: ``auto`` takes bfloat16 where the device computes in it.
        storage: Access to the model where it lies on an object store.

    Raises:
        ConfigError: The model cannot be loaded.
    """

    def __init__(
        self, model: str, precision: Precision = "auto", storage: StorageConfig | None = None
    ) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        device, chosen = choose_device(precision)
        options: dict[str, Any] = {"dtype": getattr(torch, chosen)}
        try:
            self._model = SentenceTransformer(
                local_model(resolve_image_model(model), storage),
                device=device,
                model_kwargs=options,
            )
            self.dimension = self.encode([_blank()]).shape[1]
        except ConfigError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"embedding.model {model!r} cannot be loaded as a model that reads images "
                f"({reason}); give efficientnet-lite0, a folder or a model-hub id such as a CLIP"
            ) from None

    def encode(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the vectors of unit length, shape (n, d)."""
        from PIL import Image

        parts: list[NDArray[np.float32]] = []

        def work(rows: NDArray[np.int64]) -> None:
            batch = [Image.open(io.BytesIO(images[row])).convert("RGB") for row in rows]
            parts.append(
                self._model.encode(
                    batch,
                    batch_size=BATCH_IMAGES,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
            )

        for start in range(0, len(images), BATCH_IMAGES):
            in_halves(work, np.arange(start, min(start + BATCH_IMAGES, len(images))))
        return np.asarray(np.concatenate(parts), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of unit length in the images' space, shape (n, d)."""
        found = self._model.encode(
            list(texts),
            batch_size=BATCH_IMAGES,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(found, np.float32)


def _blank() -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()
