"""Checks of a run before anything starts."""

from __future__ import annotations

import fnmatch
import os
import urllib.parse

from hercules_scale.config.file import check_functions
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.config.section import names_function
from hercules_scale.endpoint import endpoint_url, import_openai, is_loopback
from hercules_scale.errors import ConfigError, InputError
from hercules_scale.jobs.disk_space import check_space, dimension_of
from hercules_scale.models.aliases import IMAGE_ALIASES
from hercules_scale.models.hub import check_local
from hercules_scale.models.names import (
    check_chat_model,
    resolve_embedding_model,
    resolve_image_model,
)
from hercules_scale.reading.columns import with_columns
from hercules_scale.reading.items import examine
from hercules_scale.reading.listing import list_sources
from hercules_scale.reading.redact import load_redaction
from hercules_scale.reading.sources import SourceFile
from hercules_scale.reading.survey import Survey
from hercules_scale.runtime.context import NO_FUNCTIONS, Functions
from hercules_scale.stages.vocabulary import read_vocabulary
from hercules_scale.storage import layout
from hercules_scale.storage.file_systems import split_uri
from hercules_scale.storage.manifest import check_free
from hercules_scale.storage.retries import reason_of
from hercules_scale.storage.store import Store
from hercules_scale.summarization.clients import OpenAIClient


def check(
    config: RunConfig, functions: Functions = NO_FUNCTIONS
) -> tuple[ResolvedConfig, list[SourceFile], Survey]:
    """Check what can be checked before anything starts, and list the input files.

    Args:
        config: The run.
        functions: The user's functions, which the configuration may ask for.

    Returns:
        The configuration with the detected modality and columns, the files, and the findings
        about them.

    Raises:
        InputError: A path names nothing or cannot be read, or the output cannot be written.
        SchemaError: A column is missing.
        ConfigError: A model's alias or folder does not exist.
    """
    check_functions(config, functions.llm is not None, functions.embed is not None)
    if config.privacy.redact is not None:
        load_redaction(config.privacy.redact)
    check_language_model(config)
    skipped: dict[str, str] = {}
    sources = list_sources(config.input.paths, skipped, config.input.documents, config.storage)
    taken = examine(config.input, sources, skipped)
    resolved = ResolvedConfig.of(config, with_columns(config.input, taken.columns))
    _check_models(resolved)
    _check_output(config)
    check_space(config, sources, taken.n_rows, dimension_of(config, taken))
    return resolved, sources, taken


def check_language_model(config: RunConfig) -> None:
    """Refuse a language model that does not exist or may not be asked.

    Raises:
        ConfigError: The model is no alias, folder or hub id, or it must be on this machine and is
            not.
    """
    if config.summaries.engine == "vllm":
        check_chat_model(config.summaries.model)
        if config.privacy.local_only:
            check_local("summaries.model", config.summaries.model)
        if config.summaries.engine_kwargs or config.resources.llm_accelerator:
            # The import is slow, so it is done only if there is something to check.
            from hercules_scale.serving.engine import check_arguments

            check_arguments(config)
    if config.summaries.engine == "openai":
        client = OpenAIClient(config.summaries)
        if config.privacy.local_only:
            _check_endpoint("summaries.endpoint", client.url)


def _check_output(config: RunConfig) -> None:
    """Check that the output is free, and write and delete a small file there."""
    # A run waits out long outages of the storage, but not at its start, when the user is watching.
    store = Store(config.output.path, config.storage).hasty
    _check_apart(config.input.paths, store)
    probe = layout.stage_file("probe", "writable")
    try:
        check_free(store, "output.path")
        store.write_bytes(probe, b"")
        store.delete_files(probe)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"output.path {store.uri}: cannot be written ({reason_of(error)}); check the path, "
            "the bucket, the credentials and storage.endpoint"
        ) from None


def _check_apart(inputs: list[str], output: Store) -> None:
    """Refuse an output that the next run on the same input would read."""
    own = [layout.RUN, *(layout.part(table, 0) for table in layout.TABLES)]
    folders = _spellings(output.scheme, output.root)
    inside = [f"{folder}/{name}" for folder in folders for name in own]
    for path in inputs:
        scheme, place = split_uri(path)
        reads = any(
            fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}/")
            for pattern in _spellings(scheme, place)
            for name in inside
        )
        if scheme == output.scheme and reads:
            raise InputError(
                f"output.path {output.uri} lies in input.path {path}, so that the next run would "
                "read this one's files; give an output beside the input"
            )


def _spellings(scheme: str, place: str) -> set[str]:
    """Return a path, and for a local one its target with links resolved."""
    if scheme != "file":
        return {place.rstrip("/")}
    return {os.path.normpath(place), os.path.realpath(place)}


def _check_local_models(config: ResolvedConfig) -> None:
    """Refuse models that would come from a hub."""
    embedding, of_text = config.embedding, config.input.modality == "text"
    if embedding.engine == "openai":
        _check_endpoint("embedding.endpoint", endpoint_url(embedding.endpoint))
    elif not of_text:
        check_local("embedding.text_model", embedding.text_model)
    if embedding.model is not None and not (of_text and embedding.engine == "openai"):
        check_local("embedding.model", embedding.model)


def _check_endpoint(key: str, url: str) -> None:
    """Refuse an endpoint that is not on this machine; a local one is asked without a proxy."""
    if not is_loopback(url):
        raise ConfigError(
            f"{key} is at {urllib.parse.urlsplit(url).hostname}, and "
            "privacy.local_only refuses endpoints that are not on this machine; give one at "
            "localhost, 127.0.0.1 or [::1]"
        )


def _check_criterion_words(config: ResolvedConfig) -> None:
    """Refuse words of a criterion that no model embeds into the space of the items."""
    modality, model = config.input.modality, config.embedding.model
    shared = modality == "image" and model not in IMAGE_ALIASES
    if config.embeds_by_function or not (config.labels_share_space or shared):
        raise ConfigError(
            "hierarchy.criterion_words and criteria need items in the space of words: texts, or "
            "images with an embedding.model such as a CLIP, and no function as encoder; got "
            f"modality {modality} and {model}; choose numbers by input.columns instead, or take "
            "hierarchy.representation description"
        )


def _check_models(config: ResolvedConfig) -> None:
    """Refuse models that do not exist, and modes that the modality does not allow."""
    modality, embedding = config.input.modality, config.embedding
    of_texts = config.text_embedding.model
    if embedding.engine == "openai" and not names_function(of_texts):
        import_openai("embedding.engine")
    if not names_function(of_texts) and embedding.engine != "openai":
        resolve_embedding_model(of_texts, config.text_model_key)
    if modality == "image":
        resolve_image_model(config.image_embedding.model)
    elif modality in ("numeric", "embedding") and embedding.model is not None:
        raise ConfigError(
            f"embedding.model {embedding.model!r} has no meaning for input.modality {modality}, "
            "where items are vectors already; leave it out, embedding.text_model embeds titles"
        )
    if embedding.engine == "vllm" and not config.labels_share_space:
        raise ConfigError(
            f"embedding.engine vllm embeds texts, and input.modality is {modality}; leave it out"
        )
    if config.privacy.local_only:
        _check_local_models(config)
    if config.summaries.show_images and modality != "image":
        raise ConfigError(
            f"summaries.show_images has no meaning for input.modality {modality}; leave it out"
        )
    if config.summaries.vocabulary is not None:
        described = config.describes_items or config.clusters_descriptions
        if modality != "image" or embedding.model in IMAGE_ALIASES or described:
            raise ConfigError(
                "summaries.vocabulary needs images that are not described otherwise, and an "
                "embedding.model with texts in the space of images, such as a CLIP; got modality "
                f"{modality} and {embedding.model}"
            )
        read_vocabulary(config.summaries.vocabulary, config.storage)
    if config.hierarchy.criterion_words is not None:
        _check_criterion_words(config)
    if config.input.text_column is None:
        _check_words(config)


def _check_words(config: ResolvedConfig) -> None:
    """Refuse to describe items that no column has words of, or to cluster their file names."""
    modality, clustered = config.input.modality, config.clusters_descriptions
    if modality == "image" and clustered and not config.describes_items:
        raise ConfigError(
            "hierarchy.representation description needs captions of the images; name a column of "
            "captions as input.text_column, or set summaries.describe_items and show_images, so "
            "that a model that sees writes them"
        )
    if modality == "embedding" and (clustered or config.describes_items):
        raise ConfigError(
            "hierarchy.representation description and summaries.describe_items need words to "
            "describe items by, which vectors have not; name input.text_column"
        )
