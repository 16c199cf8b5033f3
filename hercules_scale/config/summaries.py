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
    """A worked example that the user gives."""

    items: list[str] = Field(min_length=1, max_length=20, description="texts of a few items")
    title: str = Field(min_length=1, max_length=60, description="their title")
    description: str = Field(min_length=1, max_length=240, description="their description")


class SummariesConfig(Section):
    """Titles and descriptions of the clusters."""

    engine: Literal["vllm", "openai", "keyphrases", "callable"] = key(
        browser=True,
        default="vllm",
        description="vllm (on Ray Serve), openai (any compatible endpoint) or keyphrases (no LLM)",
    )
    model: str = key(
        browser=True,
        default=DEFAULT_CHAT_MODEL,
        min_length=1,
        description="an alias, a folder or its URI, a model-hub id, or the endpoint's model name",
    )
    endpoint: EndpointUrl | None = key(
        tables=False,
        default=None,
        description="base URL for engine openai; left out: OPENAI_BASE_URL. "
        "The key comes from OPENAI_API_KEY alone",
    )
    topic: str | None = key(browser=True, default=None, description="the paper's topic seed")
    instructions: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        max_length=4_000,
        description="more that the model is asked to keep to, in every prompt",
    )
    language: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        max_length=60,
        description="language of titles and descriptions, such as German; left out: that of the "
        "items",
    )
    examples: list[PromptExample] | None = key(
        browser=True,
        default=None,
        max_length=20,
        description="worked examples in the place of the built-in ones; [] for none",
    )
    prompt_size: Literal["small", "medium", "large"] = key(
        browser=True,
        default="large",
        description="small: worked examples and few items; medium: worked examples, many items and "
        "all that is known of a cluster; large: the same without examples. Left out: by the "
        "model, small below one billion parameters, medium below four",
    )
    exemplars: int = key(
        browser=True,
        default=LARGE_PROMPTS["exemplars"],
        ge=1,
        le=100,
        description="items shown in a prompt; left out: 16, or 8 of small prompts",
    )
    exemplar_strategy: Literal["nearest", "diverse", "random", "mixed"] = key(
        browser=True,
        default=LARGE_PROMPTS["exemplar_strategy"],
        description="the items nearest to the centroid, those of them that are not near one "
        "another, a random draw, or half nearest and half random; left out: mixed",
    )
    exemplar_tokens: int = key(
        browser=True,
        default=LARGE_PROMPTS["exemplar_tokens"],
        ge=8,
        le=4096,
        description="tokens of an item that a prompt shows; left out: 96, or 48 of small prompts",
    )
    max_prompt_tokens: int = key(
        browser=True,
        default=LARGE_PROMPTS["max_prompt_tokens"],
        ge=512,
        le=1_000_000,
        description="tokens of a prompt; left out: 4000, or 1536 of small prompts",
    )
    children: int = key(
        browser=True,
        default=12,
        ge=0,
        le=100,
        description="clusters below that a prompt shows; 0 for none",
    )
    children_strategy: Literal["largest", "nearest", "random"] = key(
        browser=True,
        default="largest",
        description="the largest children, those nearest to the centroid, or a random draw",
    )
    numeric_precision: int = key(
        browser=True, default=4, ge=1, le=17, description="digits of numbers that a prompt shows"
    )
    max_answer_tokens: int = key(
        browser=True, default=128, ge=32, le=4096, description="tokens of an answer"
    )
    temperature: float = key(
        browser=True, default=0.0, ge=0, le=2, description="0 is the likeliest answer"
    )
    contrast: int = key(
        browser=True,
        default=2,
        ge=0,
        le=20,
        description="nearest clusters outside that a prompt sets it against",
    )
    candidates: int = key(
        browser=True,
        default=4,
        ge=1,
        le=32,
        description="answers to each question; the one that fits its own cluster best "
        "against its siblings is taken",
    )
    clusters_per_request: int = key(
        browser=True,
        default=1,
        ge=1,
        le=100,
        description="clusters that share a request, at most; fewer after an answer that cannot "
        "be used",
    )
    vocabulary: str | None = key(
        default=None,
        min_length=1,
        description="a text file of words, one a line, that clusters of images are named from, "
        "where embedding.model reads texts too",
    )
    show_images: bool = key(
        browser=True,
        default=False,
        description="show the images themselves to the model, which must be one that sees; with "
        "describe_items it captions every image",
    )
    describe_items: bool = key(
        browser=True,
        default=False,
        description="title and describe every item too; hierarchy.representation "
        "description does so by itself",
    )
    max_total_tokens: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        description="stop before more tokens than this; more resumes the run",
    )
    max_cost: float | None = key(
        tables=False,
        browser=True,
        default=None,
        gt=0,
        description="the same for the cost, by summaries.price",
    )
    requests_in_flight: int | None = key(
        tables=False,
        browser=True,
        default=None,
        ge=1,
        le=100_000,
        description="requests sent and not yet answered; left out: 32, or for each replica 64, "
        "on GPUs 256; of a function 4",
    )
    max_attempts: int = key(
        browser=True, default=4, ge=1, le=20, description="requests a cluster, at most"
    )
    timeout_seconds: float = key(
        tables=False, browser=True, default=300, gt=0, description="wait for one answer"
    )
    record_prompts: bool = key(
        browser=True, default=False, description="keep prompts and responses in llm_calls"
    )
    price: PriceConfig | None = key(tables=False, browser=True, default=None)
    engine_kwargs: dict[str, Any] = key(
        default={},
        description="more arguments of vLLM's engine, such as {quantization: awq, "
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
    def _cost_has_a_price(self) -> SummariesConfig:
        if self.show_images and self.clusters_per_request > 1:
            raise ValueError(
                f"show_images needs clusters_per_request 1, got {self.clusters_per_request}"
            )
        if self.show_images and self.engine == CALLABLE:
            raise ValueError(
                "show_images needs a model that sees, and a function (llm) is given text alone; "
                "leave one out"
            )
        if self.max_cost is not None and self.price is None:
            raise ValueError(
                f"max_cost {self.max_cost:g} needs summaries.price, such as "
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
