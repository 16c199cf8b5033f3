"""The configuration of a run with its modality, columns and models known."""

from __future__ import annotations

from hercules_scale.config.reading import CRITERION, EmbeddingConfig, InputConfig, Modality
from hercules_scale.config.run import RunConfig
from hercules_scale.config.section import names_function
from hercules_scale.models.aliases import DEFAULT_MODELS


class ResolvedInput(InputConfig):
    """The input of a run, with detected modality and columns."""

    modality: Modality

    @property
    def words_column(self) -> str:
        """Column of the table ``items`` that describes an item in words."""
        has_text = self.text_column is not None or self.modality == "text"
        return "text" if has_text else "description"


class EncoderConfig(EmbeddingConfig):
    """Section ``embedding`` of one encoder, with its model known.

    Attributes:
        model: The model.
        criterion: Criterion of the run, for the encoder's instruction.
        words: Words of the criterion, which span the space of the vectors; none for all of it.
    """

    model: str
    criterion: str | None = None
    words: tuple[str, ...] = ()


class ResolvedConfig(RunConfig):
    """Configuration of a run with all that follows from its input; made by ``of``."""

    input: ResolvedInput

    @classmethod
    def of(cls, config: RunConfig, found: InputConfig) -> ResolvedConfig:
        """Return the configuration with modality, columns, and the models that follow from them.

        Args:
            config: The configuration as written; its values are not checked again.
            found: Section ``input`` with detected modality and columns.
        """
        resolved = ResolvedInput.model_construct(found.model_fields_set, **dict(found))
        written = config.embedding
        model = written.model
        named = names_function(written.text_model) or written.engine == "openai"
        if model is None and resolved.modality == "text" and named:
            model = written.text_model
        model = model or DEFAULT_MODELS.get(resolved.modality)
        embedding = written.model_copy(update={"model": model})
        values = dict(config) | {"input": resolved, "embedding": embedding}
        return cls.model_construct(config.model_fields_set, **values)

    @property
    def text_embedding(self) -> EncoderConfig:
        """Encoder of titles and descriptions: that of the items if they are texts."""
        of_text = self.input.modality == "text"
        model = self.embedding.model if of_text else self.embedding.text_model
        return self._encoder(model, self.labels_share_space)

    @property
    def text_model_key(self) -> str:
        """Key of the model of ``text_embedding``, for messages."""
        return "embedding.model" if self.input.modality == "text" else "embedding.text_model"

    @property
    def image_embedding(self) -> EncoderConfig:
        """Encoder of images."""
        return self._encoder(self.embedding.model, True)

    def _encoder(self, model: str | None, of_items: bool) -> EncoderConfig:
        assert model is not None
        words = tuple(self.hierarchy.criterion_words or ()) if of_items else ()
        criterion, prompt = self.hierarchy.criterion, self.embedding.prompt
        if criterion is not None and prompt is not None:
            prompt = prompt.replace(CRITERION, criterion)
        if self.hierarchy.criterion_words is not None:
            # Trees by several criteria share the vectors that are projected.
            criterion = None
        own = {"model": model, "prompt": prompt, "criterion": criterion, "words": words}
        return EncoderConfig.model_construct(**dict(self.embedding) | own)

    @property
    def labels_share_space(self) -> bool:
        """Whether one model embeds items and labels, so that they can be compared."""
        return self.input.modality == "text" or self.clusters_descriptions

    @property
    def embeds_at_endpoint(self) -> bool:
        """Whether an endpoint embeds the items or their descriptions."""
        return self.labels_share_space and self.embedding.engine == "openai"

    @property
    def loads_encoder(self) -> bool:
        """Whether workers load a model that embeds the items or their descriptions."""
        return self.encodes_items and not self.embeds_at_endpoint

    @property
    def encodes_items(self) -> bool:
        """Whether a model embeds the items, or their descriptions."""
        described = self.describes_items or self.clusters_descriptions
        return described or self.input.modality in ("text", "image")
