"""Sections about the input and its embedding."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from hercules_scale.config.section import EndpointUrl, Section, key, without_password

Modality = Literal["text", "image", "numeric", "embedding"]
# Mark in ``embedding.prompt`` that the criterion replaces.
CRITERION = "{criterion}"


class VariableConfig(Section):
    """Description of a numeric column, for statistics and prompts."""

    name: str | None = Field(default=None, description="name for readers, such as petal length")
    unit: str | None = Field(default=None, description="unit, such as cm")
    description: str | None = Field(
        default=None, description="description, such as length of a petal"
    )


class CsvConfig(Section):
    """Dialect of csv files; keys that are left out are detected for each file."""

    delimiter: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        max_length=1,
        description="character between fields, such as a semicolon; default: detected",
    )
    quote: str | None = key(
        browser=True,
        default=None,
        max_length=1,
        description="character around fields; default: \", or ' where the file has it; empty: none",
    )
    escape: str | None = key(
        browser=True,
        default=None,
        max_length=1,
        description="character before a quote within quotes; default: a quote, or \\ where the "
        "file has it; empty: a quote",
    )
    encoding: str | None = key(
        browser=True,
        default=None,
        description="encoding of csv, jsonl, json and txt files, such as utf-8 or cp1252; "
        "default: detected",
    )
    decimal: Literal[".", ","] | None = key(
        browser=True, default=None, description="decimal mark of numbers; default: detected"
    )

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        if value and (not value.isascii() or value in "\r\n\0"):
            raise ValueError("must be one character of ASCII, and no end of a line")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        try:
            # Python's codecs that are not encodings of text, such as base64, raise LookupError.
            if value is not None:
                "a".encode(value)
        except (LookupError, ValueError):
            raise ValueError("must be an encoding of text") from None
        return value

    @model_validator(mode="after")
    def _characters_differ(self) -> CsvConfig:
        given = [each for each in (self.delimiter, self.quote, self.escape) if each]
        if len(set(given)) < len(given):
            raise ValueError(
                "delimiter, quote and escape must differ; leave escape empty for doubled quotes"
            )
        return self


class InputConfig(Section):
    """The input of a run."""

    path: str | list[str] = key(
        description="path of a file, folder or glob, or a list of these (parquet, csv, jsonl, "
        "json, txt, npy, or images)"
    )
    csv: CsvConfig = CsvConfig()
    documents: bool = key(
        browser=True,
        default=False,
        description="whether a txt file is one item; otherwise each of its lines is one",
    )
    modality: Modality | None = key(
        browser=True, default=None, description="kind of the items; default: detected"
    )
    id_column: str | None = key(
        browser=True,
        default=None,
        description="column of ids, a different one for each item; default: the row number",
    )
    text_column: str | None = key(
        browser=True, default=None, description="column of texts; default: detected"
    )
    image_column: str | None = key(
        default=None, description="column of images: their bytes, paths or URIs"
    )
    image_sources: list[str] = key(
        default=[],
        description="folders and URL prefixes that cells of image_column may name, besides the "
        "input's folder and object stores; https://images.example.com/ allows one "
        "host, https:// every public one",
    )
    embedding_column: str | None = key(
        browser=True,
        default=None,
        description="column of vectors, all of one length",
    )
    columns: list[str] = key(
        browser=True,
        default=[],
        description="list of numeric columns; default: all that hold numbers",
    )
    metadata: dict[str, VariableConfig] = key(
        browser=True,
        default={},
        description="mapping of numeric columns to their names, units and descriptions",
    )
    label_columns: list[str] = key(
        browser=True,
        default=[],
        description="list of columns with ground truth, for evaluation only",
    )
    owner_column: str | None = key(
        browser=True,
        default=None,
        description="column of the items' owners, for privacy.min_owners; owners are counted, "
        "and neither shown nor kept",
    )

    @field_validator("path")
    @classmethod
    def _path_is_not_empty(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and not all(value)):
            raise ValueError("must name at least one file, folder or glob")
        return without_password(value)

    @field_validator("image_sources")
    @classmethod
    def _image_sources_are_places(cls, value: list[str]) -> list[str]:
        for place in value:
            scheme, separator, _ = place.partition("://")
            if separator and scheme not in ("http", "https", "file"):
                raise ValueError(
                    f"must hold folders and URL prefixes with http:// or https://, not {place!r}; "
                    "leave object stores out, which are read without it"
                )
            if not (separator or place.startswith(("/", "~", "."))):
                raise ValueError(
                    "must hold entries that begin with http://, https://, / or ./, so that no "
                    f"host is taken for a folder, not {place!r}; add one of these"
                )
            try:
                _ = urlsplit(place).port
            except ValueError as error:
                raise ValueError(
                    f"must hold folders and URL prefixes, not {place!r} ({error}); correct it"
                ) from None
        without_password(value)
        return value

    @property
    def paths(self) -> list[str]:
        """The path as a list."""
        return [self.path] if isinstance(self.path, str) else self.path


class EmbeddingConfig(Section):
    """Embedding of the items."""

    engine: Literal["sentence-transformers", "vllm", "openai"] = key(
        browser=True,
        default="sentence-transformers",
        description="engine of the text encoder: sentence-transformers or vllm (on the workers), "
        "or openai (any endpoint of OpenAI's embeddings API)",
    )
    model: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        description="encoder of the items: an alias, a folder or its URI, a model-hub id, or the "
        "endpoint's model name; default: minilm, or for images efficientnet-lite0",
    )
    text_model: str = key(
        browser=True,
        default="minilm",
        min_length=1,
        description="encoder of titles and descriptions, where the items are not texts",
    )
    endpoint: EndpointUrl | None = key(
        tables=False,
        default=None,
        description="base URL for engine openai; default: OPENAI_BASE_URL. The key comes from "
        "OPENAI_API_KEY alone",
    )
    prompt: str | None = key(
        browser=True,
        default=None,
        max_length=4_000,
        description="text put before every text, such as 'clustering: ', in which {criterion} is "
        "hierarchy.criterion, or the name of one of the model's own prompts; default: the "
        "model's default prompt",
    )
    dimensions: int | None = key(
        browser=True,
        default=None,
        ge=2,
        le=100_000,
        description="number of leading dimensions of a vector to keep, for models trained for it "
        "(Matryoshka); an endpoint is asked for as many; default: all",
    )
    trust_remote_code: bool = key(
        tables=False,
        default=False,
        description="whether code in the model's files is executed, which some models need",
    )
    max_total_tokens: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        description="number of tokens beyond which the run stops, as the endpoint counts them; a "
        "higher number resumes it",
    )
    price: float | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=0,
        description="price of a million tokens at the endpoint, for plan",
    )
    precision: Literal["auto", "float32", "bfloat16"] = key(
        browser=True,
        default="auto",
        description="number format of the encoder; auto takes bfloat16 where the processor "
        "computes in it",
    )
    cache: str | None = key(
        tables=False,
        default=None,
        min_length=1,
        description="folder, a path or URI, that keeps vectors for other runs over the same items",
    )
    long_text: Literal["truncate", "window"] = key(
        browser=True,
        default="truncate",
        description="handling of texts longer than the model reads: truncate cuts them, window "
        "reads them in windows (64 at most) and averages the vectors",
    )

    @model_validator(mode="after")
    def _keys_fit_the_engine(self) -> EmbeddingConfig:
        if self.engine == "openai":
            if self.model is None and "text_model" not in self.model_fields_set:
                raise ValueError(
                    "engine openai needs model; give the endpoint's name of one, such as "
                    "text-embedding-3-small"
                )
            if self.long_text == "window":
                raise ValueError(
                    "long_text window needs engine sentence-transformers or vllm, got openai; "
                    "leave it out"
                )
            return self
        for name in ("endpoint", "max_total_tokens", "price"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} needs engine openai, got {self.engine}; leave it out")
        return self
