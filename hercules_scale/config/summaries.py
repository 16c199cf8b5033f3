"""Sections about titles and descriptions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from hercules_scale.config.section import CALLABLE, EndpointUrl, Section, key
from hercules_scale.models.aliases import DEFAULT_CHAT_MODEL
from hercules_scale.models.sizes import n_parameters

# Arguments of vLLM's engine that this package sets, each with the key that changes it, if any.
OWN_ENGINE_ARGUMENTS = {
    "model": "summaries.model",
    "served_model_name": "summaries.model",
    "max_model_len": "summaries.max_prompt_tokens and max_answer_tokens",
    "tensor_parallel_size": "resources.llm_tensor_parallel",
    "pipeline_parallel_size": "resources.llm_pipeline_parallel",
    "structured_outputs_config": "",
    "enable_prefix_caching": "",
    "disable_log_stats": "",
}


class PriceConfig(Section):
    """Prices of the language model, for ``plan`` and ``max_cost``."""

    prompt: float = Field(ge=0, description="price of a million prompt tokens")
    completion: float = Field(ge=0, description="price of a million generated tokens")

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost of a number of tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


# Defaults for small prompts, and for medium and large ones.
SMALL_PROMPTS: dict[str, Any] = {
    "exemplars": 8,
    "exemplar_strategy": "mixed",
    "exemplar_tokens": 48,
    "max_prompt_tokens": 1536,
}
LARGE_PROMPTS: dict[str, Any] = {
    "exemplars": 16,
    "exemplar_strategy": "mixed",
    "exemplar_tokens": 96,
    "max_prompt_tokens": 4000,
}
# Least parameters of models that get medium prompts, and of models that get large ones.
MEDIUM_PARAMETERS, LARGE_PARAMETERS = 0.95e9, 4e9


def _prompt_size(engine: object, model: object) -> str:
    """Return the prompt size for a model; endpoints and functions count as large."""
    if engine == "keyphrases":
        return "small"
    size = n_parameters(model) if engine == "vllm" and isinstance(model, str) else None
    if size is None or size >= LARGE_PARAMETERS:
        return "large"
    return "small" if size < MEDIUM_PARAMETERS else "medium"


class PromptExample(Section):
    """A worked example of the user."""

    items: list[str] = Field(
        min_length=1, max_length=20, description="list of the texts of a few items"
    )
    title: str = Field(min_length=1, max_length=60, description="title of these items")
    description: str = Field(min_length=1, max_length=240, description="description of these items")


class SummariesConfig(Section):
    """Titles and descriptions of the clusters."""

    engine: Literal["vllm", "openai", "keyphrases", "callable"] = key(
        browser=True,
        default="vllm",
        description="engine of the language model: vllm (on Ray Serve), openai (any compatible "
        "endpoint) or keyphrases (no model)",
    )
    model: str = key(
        browser=True,
        default=DEFAULT_CHAT_MODEL,
        min_length=1,
        description="language model: an alias, a folder or its URI, a model-hub id, or the "
        "endpoint's model name",
    )
    endpoint: EndpointUrl | None = key(
        tables=False,
        default=None,
        description="base URL for engine openai; default: OPENAI_BASE_URL. The key comes from "
        "OPENAI_API_KEY alone",
    )
    topic: str | None = key(
        browser=True,
        default=None,
        description="topic of interest for titles and descriptions, the paper's topic seed; "
        "hierarchy.criterion takes its place",
    )
    instructions: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        max_length=4_000,
        description="further instructions to the model, added to every prompt",
    )
    language: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        max_length=60,
        description="language of titles and descriptions, such as German; default: the items' "
        "language",
    )
    examples: list[PromptExample] | None = key(
        browser=True,
        default=None,
        max_length=20,
        description="list of worked examples in place of the built-in ones; [] for none",
    )
    prompt_size: Literal["small", "medium", "large"] = key(
        browser=True,
        default="large",
        description="size of prompts: small has worked examples and few items; medium has worked "
        "examples, many items and all facts about a cluster; large is medium without "
        "worked examples; default: by the model, small below about one billion "
        "parameters, medium below four",
    )
    exemplars: int = key(
        browser=True,
        default=LARGE_PROMPTS["exemplars"],
        ge=1,
        le=100,
        description="maximum number of items in a prompt; default: 16, or 8 in small prompts",
    )
    exemplar_strategy: Literal["nearest", "diverse", "random", "mixed"] = key(
        browser=True,
        default=LARGE_PROMPTS["exemplar_strategy"],
        description="choice of items for a prompt: nearest to the centroid, diverse (nearest, "
        "but not near one another), random, or mixed (half nearest, half random)",
    )
    exemplar_tokens: int = key(
        browser=True,
        default=LARGE_PROMPTS["exemplar_tokens"],
        ge=8,
        le=4096,
        description="maximum number of tokens of an item in a prompt; default: 96, or 48 in "
        "small prompts",
    )
    max_prompt_tokens: int = key(
        browser=True,
        default=LARGE_PROMPTS["max_prompt_tokens"],
        ge=512,
        le=1_000_000,
        description="maximum number of tokens of a prompt; default: 4000, or 1536 for small "
        "prompts",
    )
    children: int = key(
        browser=True,
        default=12,
        ge=0,
        le=100,
        description="maximum number of clusters of the level below in a prompt; 0 for none",
    )
    children_strategy: Literal["largest", "nearest", "random"] = key(
        browser=True,
        default="largest",
        description="choice of clusters of the level below for a prompt: largest, nearest to the "
        "centroid, or random",
    )
    numeric_precision: int = key(
        browser=True,
        default=4,
        ge=1,
        le=17,
        description="number of significant digits of numbers in a prompt",
    )
    max_answer_tokens: int = key(
        browser=True,
        default=128,
        ge=32,
        le=4096,
        description="maximum number of tokens of an answer about one cluster",
    )
    temperature: float = key(
        browser=True,
        default=0.0,
        ge=0,
        le=2,
        description="sampling temperature; 0 gives the likeliest answer; with several candidates "
        "it is at least 0.6",
    )
    contrast: int = key(
        browser=True,
        default=2,
        ge=0,
        le=20,
        description="number of nearest other clusters that a prompt sets against the cluster",
    )
    candidates: int = key(
        browser=True,
        default=4,
        ge=1,
        le=32,
        description="number of answers to each question; the answer that best sets its cluster "
        "apart from its siblings is kept",
    )
    clusters_per_request: int = key(
        browser=True,
        default=1,
        ge=1,
        le=100,
        description="maximum number of clusters in a request; lowered after an answer that "
        "cannot be used",
    )
    vocabulary: str | None = key(
        default=None,
        min_length=1,
        description="text file of words, one per line, that name clusters of images, if "
        "embedding.model reads texts too",
    )
    show_images: bool = key(
        browser=True,
        default=False,
        description="whether prompts show the images themselves, to a model that sees; with "
        "describe_items it captions every image",
    )
    describe_items: bool = key(
        browser=True,
        default=False,
        description="whether the model titles and describes every item too, a call each; "
        "hierarchy.representation description then clusters these descriptions",
    )
    max_total_tokens: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        description="maximum number of prompt and answer tokens; the run stops before exceeding "
        "it, and a higher number resumes it",
    )
    max_cost: float | None = key(
        tables=False,
        browser=True,
        default=None,
        gt=0,
        description="maximum cost by summaries.price; the run stops before exceeding it, and a "
        "higher cost resumes it",
    )
    requests_in_flight: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=100_000,
        description="maximum number of concurrent requests; default: 32 to an endpoint, 64 per "
        "replica on CPUs, 256 per replica on GPUs, 4 calls of a function",
    )
    max_attempts: int = key(
        browser=True, default=4, ge=1, le=20, description="maximum number of attempts at a question"
    )
    timeout_seconds: float = key(
        tables=False,
        browser=True,
        default=300,
        gt=0,
        description="time limit of an answer, in seconds",
    )
    record_prompts: bool = key(
        browser=True, default=False, description="whether llm_calls keeps prompts and responses"
    )
    price: PriceConfig | None = key(
        tables=False,
        browser=True,
        default=None,
        description="prices of the model, such as {prompt: 0.1, completion: 0.4} for a million "
        "tokens, for plan and max_cost",
    )
    engine_kwargs: dict[str, Any] = key(
        default={},
        description="further arguments of vLLM's engine, such as {quantization: awq, "
        "gpu_memory_utilization: 0.8}",
    )

    @property
    def for_items(self) -> SummariesConfig:
        """The section for items: one answer each, since answers about an item do not compete."""
        return self.model_copy(update={"candidates": 1})

    @model_validator(mode="before")
    @classmethod
    def _prompts_fit_the_model(cls, values: Any) -> Any:
        """Fill in the defaults that depend on the size of the model."""
        if not isinstance(values, dict):
            return values
        left_out = (*LARGE_PROMPTS, "prompt_size")
        given = {
            key: value for key, value in values.items() if key not in left_out or value is not None
        }
        engine, model = (
            given.get(key, cls.model_fields[key].default) for key in ("engine", "model")
        )
        size = given.get("prompt_size") or _prompt_size(engine, model)
        budget = SMALL_PROMPTS if size == "small" else LARGE_PROMPTS
        return {**budget, **given, "prompt_size": size}

    @model_validator(mode="after")
    def _model_can_see(self) -> SummariesConfig:
        if self.show_images and self.clusters_per_request > 1:
            raise ValueError(
                f"show_images needs clusters_per_request 1, got {self.clusters_per_request}; leave "
                "one out"
            )
        if self.show_images and self.engine == CALLABLE:
            raise ValueError(
                "show_images needs a model that sees, and a function (llm) is given text alone; "
                "leave one out"
            )
        return self

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> SummariesConfig:
        if self.max_cost is not None and self.price is None:
            raise ValueError(
                f"max_cost {self.max_cost:g} needs summaries.price; give it, such as "
                "{prompt: 0.1, completion: 0.4} for a million tokens"
            )
        return self

    @model_validator(mode="after")
    def _engine_arguments_are_of_vllm(self) -> SummariesConfig:
        if self.engine_kwargs and self.engine != "vllm":
            raise ValueError(f"engine_kwargs needs engine vllm, got {self.engine}; leave it out")
        for name in self.engine_kwargs.keys() & OWN_ENGINE_ARGUMENTS.keys():
            key = OWN_ENGINE_ARGUMENTS[name]
            remedy = f"set {key}" if key else "leave it out"
            raise ValueError(f"engine_kwargs must not hold {name}, which is set here; {remedy}")
        return self
