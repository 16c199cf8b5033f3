"""Sections about the input and its embedding."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from hercules_scale.config.section import EndpointUrl, Section, key, without_password

Modality = Literal["text", "image", "numeric", "embedding"]


class VariableConfig(Section):
    """Description of a numeric column, for statistics and prompts."""

    name: str | None = Field(default=None, description="what people call it")
    unit: str | None = Field(default=None, description="such as cm")
    description: str | None = Field(default=None, description="such as length of a petal")


class CsvConfig(Section):
    """Dialect of csv files; keys that are left out are detected for each file."""

    delimiter: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        max_length=1,
        description="what separates fields, such as ;",
    )
    quote: str | None = key(
        browser=True,
        default=None,
        max_length=1,
        description='what encloses fields; left out: ", empty: nothing',
    )
    escape: str | None = key(
        browser=True,
        default=None,
        max_length=1,
        description="character before a quote within quotes; left out: a quote, or \\ where the "
        "file has it so; empty: a quote",
    )
    encoding: str | None = key(
        browser=True,
        default=None,
        description="of csv, jsonl, json and txt files, such as utf-8 or cp1252",
    )
    decimal: Literal[".", ","] | None = key(
        browser=True, default=None, description="what begins the decimals of a number"
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
            raise ValueError(f"{value!r} is no encoding of text; give such as utf-8") from None
        return value

    @model_validator(mode="after")
    def _characters_differ(self) -> CsvConfig:
        given = [each for each in (self.delimiter, self.quote, self.escape) if each]
        if len(set(given)) < len(given):
            raise ValueError(
                "delimiter, quote and escape must differ; an escape left empty is the quote itself"
            )
        return self


class InputConfig(Section):
    """The input of a run."""

    path: str | list[str] = key(
        description="a file, folder, glob or list of them (parquet, csv, jsonl, txt, npy, or "
        "images)"
    )
    csv: CsvConfig = CsvConfig()
    documents: bool = key(
        browser=True, default=False, description="a txt file is one text, and not each of its lines"
    )
    modality: Modality | None = key(
        browser=True, default=None, description="what an item is; left out: detected"
    )
    id_column: str | None = key(
        browser=True,
        default=None,
        description="column that names each item; left out: the row number",
    )
    text_column: str | None = key(
        browser=True, default=None, description="column that holds the text; left out: detected"
    )
    image_column: str | None = key(
        default=None, description="column that holds images: their bytes, paths or URIs"
    )
    image_sources: list[str] = key(
        default=[],
        description="where cells of image_column may lie besides the input's folder and object "
        "stores: folders, and beginnings of URLs such as https://images.example.com/; https:// "
        "alone is every public host",
    )
    embedding_column: str | None = key(
        browser=True,
        default=None,
        description="column that holds vectors of numbers, all of one length",
    )
    columns: list[str] = key(
        browser=True, default=[], description="numeric columns; left out: all that hold numbers"
    )
    metadata: dict[str, VariableConfig] = key(
        browser=True, default={}, description="names, units and descriptions of numeric columns"
    )
    label_columns: list[str] = key(
        browser=True,
        default=[],
        description="ground truth, for evaluation only; a list of column names",
    )
    owner_column: str | None = key(
        browser=True,
        default=None,
        description="column of the items' owners, for privacy.min_owners; its values are "
        "counted, and neither shown nor kept",
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
                    f"{place!r} must be a folder, or the beginning of a URL with http:// or "
                    "https://; object stores are read without being named"
                )
            if not (separator or place.startswith(("/", "~", "."))):
                raise ValueError(
                    f"{place!r} must begin with http://, https://, / or ./, so that no host is "
                    "taken for a folder"
                )
            try:
                _ = urlsplit(place).port
            except ValueError as error:
                raise ValueError(f"{place!r} is no beginning of a URL ({error})") from None
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
        description="of texts: sentence-transformers or vllm (on the workers), or openai (any "
        "endpoint of OpenAI's embeddings API)",
    )
    model: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        description="an alias, a folder or its URI, a model-hub id, or the endpoint's model name; "
        "left out: minilm, or for images efficientnet-lite0",
    )
    text_model: str = key(
        browser=True,
        default="minilm",
        min_length=1,
        description="embeds titles and descriptions where the items are no texts",
    )
    endpoint: EndpointUrl | None = key(
        tables=False,
        default=None,
        description="base URL for engine openai; left out: OPENAI_BASE_URL. The key comes from "
        "OPENAI_API_KEY alone",
    )
    prompt: str | None = key(
        browser=True,
        default=None,
        max_length=4_000,
        description="text put before every text, such as 'clustering: ', or the name of one of the "
        "model's own prompts; left out: the one that the model wants, if it says so",
    )
    dimensions: int | None = key(
        browser=True,
        default=None,
        ge=2,
        le=100_000,
        description="numbers of a vector that are kept, of models trained for it (Matryoshka); an "
        "endpoint is asked for as many",
    )
    trust_remote_code: bool = key(
        tables=False,
        default=False,
        description="execute code in the files of the model, which some models need",
    )
    max_total_tokens: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        description="stop once the endpoint has read as many tokens; more resumes the run",
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
        description="auto takes bfloat16 where the processor computes in it",
    )
    cache: str | None = key(
        tables=False,
        default=None,
        min_length=1,
        description="a folder, path or URI, that keeps vectors for other runs over the same items",
    )
    long_text: Literal["truncate", "window"] = key(
        browser=True,
        default="truncate",
        description="texts longer than the model reads are cut, or read in windows (64 at most) "
        "with their vectors averaged",
    )

    @model_validator(mode="after")
    def _keys_fit_the_engine(self) -> EmbeddingConfig:
        if self.engine == "openai":
            if self.model is None and "text_model" not in self.model_fields_set:
                raise ValueError(
                    "engine openai needs model, the endpoint's name of one, such as "
                    "text-embedding-3-small"
                )
            if self.long_text == "window":
                raise ValueError(
                    "long_text window needs engine sentence-transformers or vllm; leave it out"
                )
            return self
        for name in ("endpoint", "max_total_tokens", "price"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} needs engine openai; leave it out")
        return self
