"""The configuration of a run: a section for each group of keys, with defaults and bounds.

Source: the YAML of docs/configuration.md.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, StringConstraints, field_validator, model_validator

from hercules_scale.config.hierarchy import HierarchyConfig
from hercules_scale.config.reading import CRITERION, EmbeddingConfig, InputConfig
from hercules_scale.config.resources import ResourcesConfig, StorageConfig
from hercules_scale.config.section import CALLABLE, Section, key, names_function, without_password
from hercules_scale.config.summaries import SummariesConfig


class ReductionConfig(Section):
    """Principal components for the map."""

    components: int = key(
        browser=True, default=2, ge=2, le=3, description="number of principal components"
    )


class EvaluationConfig(Section):
    """Evaluation at the end of a run."""

    metrics: Literal["all", "none"] = key(
        browser=True, default="all", description="metrics at the end of a run: all or none"
    )


class PrivacyConfig(Section):
    """Limits on the texts of items that a run shows and sends."""

    min_items: int = key(
        browser=True,
        default=0,
        ge=0,
        le=1_000_000_000,
        description="minimum number of items of a cluster that shows texts; smaller ones show "
        "none, neither to people nor to a model",
    )
    min_owners: int = key(
        browser=True,
        default=0,
        ge=0,
        le=1_000,
        description="minimum number of owners, by input.owner_column, of the items of a cluster "
        "that shows texts",
    )
    redact: str | None = key(
        default=None,
        pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$",
        description="function from text to text, as package.module:function, that is applied to "
        "every item's text before it is shown or sent",
    )
    local_only: bool = key(
        tables=False,
        browser=True,
        default=False,
        description="whether endpoints outside this machine and models of a hub are refused",
    )

    @property
    def withholds(self) -> bool:
        """Whether small clusters are withheld."""
        return self.min_items > 0 or self.min_owners > 0


class OutputConfig(Section):
    """Folder of the tables."""

    path: Annotated[str, AfterValidator(without_password)] = key(
        tables=False,
        min_length=1,
        description="folder of the tables: a local path, s3://, gs:// or az://",
    )


class CriterionConfig(Section):
    """A criterion, by which a tree of its own is built."""

    criterion: str = key(
        min_length=1,
        max_length=200,
        description="criterion by which items are grouped and titled",
    )
    words: list[str] | None = key(
        default=None,
        min_length=3,
        description="list of words that answer the criterion; default: the language model's",
    )


CriterionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


class RunConfig(Section):
    """A whole run."""

    input: InputConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    hierarchy: HierarchyConfig = HierarchyConfig()
    criteria: dict[CriterionName, CriterionConfig] = key(
        default={},
        description="mapping of names to criteria: a tree for each, over one embedding, in a "
        "folder of this name",
    )
    summaries: SummariesConfig = SummariesConfig()
    reduction: ReductionConfig = ReductionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    output: OutputConfig

    @field_validator("criteria", mode="before")
    @classmethod
    def _criteria_have_a_short_form(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            name: {"criterion": each} if isinstance(each, str) else each
            for name, each in value.items()
        }

    @model_validator(mode="after")
    def _criteria_share_an_embedding(self) -> RunConfig:
        if not self.criteria:
            return self
        if CRITERION in (self.embedding.prompt or ""):
            raise ValueError(
                f"embedding.prompt must not hold {CRITERION} beside criteria, since items are "
                "embedded once for all of them; give another prompt"
            )
        for name in ("hierarchy.criterion", "summaries.topic"):
            section, _, own = name.partition(".")
            if getattr(getattr(self, section), own) is not None:
                raise ValueError(f"criteria and {name} exclude one another; leave {name} out")
        wordless = [name for name, each in self.criteria.items() if each.words is None]
        if wordless and self.summaries.engine not in ("vllm", "openai"):
            raise ValueError(
                f"criteria.{wordless[0]}.words must be given where summaries.engine is "
                f"{self.summaries.engine}, since no model proposes them; give a list of words"
            )
        return self

    @model_validator(mode="after")
    def _columns_have_one_role(self) -> RunConfig:
        labels, own = self.input.label_columns, self.input
        for column_key, names in (("input.label_columns", labels), ("input.columns", own.columns)):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(
                    f"{column_key} must name each column once, got {twice[0]!r} again; remove it"
                )
        used = [own.text_column, own.image_column, own.embedding_column, *own.columns]
        for name in labels:
            if name in used:
                raise ValueError(
                    f"input.label_columns must not hold {name!r}, a column that is clustered: "
                    "ground truth is never seen by clustering; leave it out of one of them"
                )
        kinds = {
            "columns": bool(own.columns),
            "embedding_column": own.embedding_column is not None,
            "image_column": own.image_column is not None,
        }
        named = [f"input.{name}" for name, given in kinds.items() if given]
        if len(named) > 1:
            raise ValueError(
                f"{' and '.join(named)} exclude one another: a run has one modality; "
                "leave all but one out"
            )
        return self

    @model_validator(mode="after")
    def _owners_are_counted_alone(self) -> RunConfig:
        owner, own = self.input.owner_column, self.input
        if (owner is None) != (self.privacy.min_owners == 0):
            raise ValueError(
                f"input.owner_column ({owner!r}) and privacy.min_owners "
                f"({self.privacy.min_owners}) go together; give both, such as user_id and 5, or "
                "neither"
            )
        shown = [own.id_column, own.text_column, own.image_column, own.embedding_column]
        if owner is not None and owner in [*shown, *own.columns, *own.label_columns]:
            raise ValueError(
                f"input.owner_column must not be {owner!r}, a column that is kept in tables: "
                "owners are counted alone; name another column"
            )
        if self.privacy.withholds and self.describes_items:
            raise ValueError(
                "privacy.min_items and privacy.min_owners keep texts of small clusters from "
                "models, but summaries.describe_items sends every item's text before there are "
                "clusters; leave one out"
            )
        # Items of a modality that is still to be detected may be texts.
        texts = own.modality in (None, "text") or self.clusters_descriptions
        if self.privacy.withholds and texts and self.embedding.engine == "openai":
            raise ValueError(
                "privacy.min_items and privacy.min_owners keep texts of small clusters from "
                "models, but embedding.engine openai sends every item's text before there are "
                "clusters; take engine sentence-transformers, or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> RunConfig:
        if self.describes_items and self.summaries.engine == "keyphrases":
            raise ValueError(
                "summaries.engine keyphrases describes no items, which summaries.describe_items "
                "asks for; take engine vllm or openai"
            )
        if self.hierarchy.criterion is not None and self.summaries.topic is not None:
            raise ValueError(
                f"hierarchy.criterion and summaries.topic ({self.summaries.topic!r}) exclude one "
                "another: both say how the groups are looked at; leave summaries.topic out"
            )
        if CRITERION in (self.embedding.prompt or "") and self.hierarchy.criterion is None:
            raise ValueError(
                f"embedding.prompt holds {CRITERION}, the place of hierarchy.criterion, and there "
                "is none; give hierarchy.criterion, or another prompt"
            )
        functions = self.summaries.engine == CALLABLE or self.embeds_by_function
        if functions and self.privacy.local_only:
            raise ValueError(
                "privacy.local_only cannot know where a function (llm, embed) sends texts; leave "
                "local_only out, or name models instead of functions"
            )
        return self

    @classmethod
    def decides_tables(cls, name: str) -> bool:
        """Return whether the tables depend on a key, such as ``embedding.model``; see ``key``."""
        section: type[BaseModel] = cls
        for part in name.split("."):
            field = section.model_fields.get(part)
            if field is None:
                # A key of another version counts if any key of its section does.
                extras = [each.json_schema_extra for each in section.model_fields.values()]
                return any(each["tables"] for each in extras if isinstance(each, dict))
            if isinstance(field.json_schema_extra, dict):
                return bool(field.json_schema_extra["tables"])
            assert isinstance(field.annotation, type)
            section = field.annotation
        return True

    @property
    def criterion(self) -> str | None:
        """Criterion that titles are chosen by: ``hierarchy.criterion``, else the topic."""
        return self.hierarchy.criterion or self.summaries.topic

    @property
    def embeds_by_function(self) -> bool:
        """Whether a Python function embeds texts: items, labels or both."""
        return any(map(names_function, (self.embedding.model, self.embedding.text_model)))

    @property
    def describes_items(self) -> bool:
        """Whether a language model titles and describes every item."""
        return self.summaries.describe_items

    @property
    def clusters_descriptions(self) -> bool:
        """Whether the vectors of the items' descriptions are clustered, not the items' own."""
        return self.hierarchy.representation == "description"
