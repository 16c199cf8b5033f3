import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hercules_scale.config.file import load_config, parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.errors import ConfigError

MINIMAL = "input: {path: in.txt}\noutput: {path: out}\n"
FULL = """\
input:
  path: [a.parquet, "b/*.parquet"]
  id_column: id
  text_column: text
  label_columns: [topic]
embedding: {model: minilm, precision: float32}
hierarchy:
  levels: [100, 20, 5]
  refinement: none
  resampling: {rounds: 2, points_per_cluster: 10}
  seed: 7
summaries:
  engine: openai
  endpoint: https://example.org/v1
  temperature: 0
  price: {prompt: 0.1, completion: 0.4}
resources: {workers: 2}
output: {path: s3://bucket/run}
"""


def parse(**sections: object) -> RunConfig:
    return parse_config({"input": {"path": "in.txt"}, "output": {"path": "out"}, **sections})


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_full_configuration_is_read_as_written(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL))
    assert config.input.paths == ["a.parquet", "b/*.parquet"]
    assert config.hierarchy.levels == [100, 20, 5]
    assert config.summaries.price is not None
    assert config.summaries.price.completion == 0.4
    assert config.summaries.temperature == 0.0


def test_input_and_output_are_enough_and_one_path_is_a_list_of_one(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL)).input.paths == ["in.txt"]


def test_a_configuration_survives_being_dumped_and_parsed(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL))
    assert parse_config(config.model_dump()) == config


def test_an_unknown_key_names_its_nearest_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"hierarchy\.sed is not a known key; did you mean seed"):
        parse(hierarchy={"sed": 1})


def test_an_unknown_key_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"zzz is not a known key; known here: criteria, embedding, eval"
    ):
        parse(zzz={})


@pytest.mark.parametrize("name", ["str", "list[str]"])
def test_an_unknown_key_may_be_called_like_a_type(name: str) -> None:
    with pytest.raises(ConfigError, match=r"input\.(str|list\[str\]) is not a known key"):
        parse(input={"path": "in.txt", name: 1})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"hierarchy": {"levels": "many"}},
            r"hierarchy\.levels must be a list, got 'many'; give the numbers of clusters",
        ),
        (
            {"hierarchy": {"levels": [5, "x"]}},
            r"hierarchy\.levels\.1 must be a whole number, got 'x'; give the numbers",
        ),
        (
            {"hierarchy": {"seed": 1.5}},
            r"hierarchy\.seed must be a whole number, got 1\.5; give the seed of",
        ),
        ({"hierarchy": {"seed": True}}, r"hierarchy\.seed must be a whole number, got True"),
        (
            {"summaries": {"temperature": "hot"}},
            r"summaries\.temperature must be a number, got 'hot'; give the sampling temperature",
        ),
        (
            {"summaries": {"record_prompts": "yes"}},
            r"summaries\.record_prompts must be true or false, got 'yes'; it says whether",
        ),
        ({"embedding": {"model": 3}}, r"embedding\.model must be text, got 3; give the encoder"),
        (
            {"summaries": {"price": {"prompt": 1}}},
            r"summaries\.price\.completion is required; give the price of a million gen",
        ),
        (
            {"summaries": 3},
            r"summaries must be a section of keys, got 3; its keys are candidates, children",
        ),
        ({"input": {}}, r"input\.path is required; give the path of a file, folder"),
    ],
)
def test_a_wrong_type_names_key_rule_value_and_remedy(
    sections: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(**sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"hierarchy": {"levels": []}}, r"hierarchy\.levels must not be empty, got \[\]; give"),
        ({"hierarchy": {"levels": [0]}}, r"hierarchy\.levels\.0 must be at least 1, got 0"),
        (
            {"hierarchy": {"levels": [5, 5]}},
            r"hierarchy\.levels must fall strictly, finest level first, got \[5, 5\]; give",
        ),
        ({"hierarchy": {"levels": ["auto"]}}, r"hierarchy\.levels\.0 must be a whole number"),
        ({"hierarchy": {"max_k": 1}}, r"hierarchy\.max_k must be at least 2, got 1"),
        (
            {"hierarchy": {"k_score": "best"}},
            r"hierarchy\.k_score must be .*'silhouette'.*got 'best'",
        ),
        (
            {"summaries": {"engine": "keyphrases", "describe_items": True}},
            "keyphrases describes no items.*take engine vllm or openai",
        ),
        ({"summaries": {"max_cost": 1}}, "max_cost 1 needs summaries.price"),
        (
            {"resources": {"llm_replicas": 3, "llm_max_replicas": 2}},
            r"llm_max_replicas must be at least llm_replicas \(3\), got 2",
        ),
        (
            {"hierarchy": {"refinement": "forest"}},
            r"hierarchy\.refinement must be 'tree' or 'none', got 'forest'; give the refinement",
        ),
        (
            {"hierarchy": {"method": "agglomerative", "resampling": {"rounds": 2}}},
            r"hierarchy\.method must be kmeans where resampling\.rounds is above 0 \(2 here\).*"
            r"got 'agglomerative'; give the clustering method: kmeans builds level on level",
        ),
        (
            {"hierarchy": {"method": "agglomerative", "levels": [5001, 5]}},
            r"hierarchy\.method must be kmeans where levels ask for more than 5,000 .*5,001 here",
        ),
        (
            {"hierarchy": {"resampling": {"rounds": 3}}},
            r"resampling\.rounds must be 0 where refinement is tree \(3 here\), since tree "
            r"refinement replaces the centroids .*refinement: none, the paper's way",
        ),
        (
            {"hierarchy": {"linkage": "centroid"}},
            r"hierarchy\.linkage must be 'ward', .*got 'centroid'; give the linkage",
        ),
        (
            {"hierarchy": {"criterion": "which intent it has"}, "summaries": {"topic": "banks"}},
            r"hierarchy\.criterion and summaries\.topic \('banks'\) exclude one another.* leave "
            r"summaries\.topic out",
        ),
        (
            {"embedding": {"prompt": "Find {criterion}: "}},
            r"embedding\.prompt holds \{criterion\}, .*there is none; give hierarchy\.criterion",
        ),
        (
            {"hierarchy": {"criterion_words": ["lung", "eye", "skin"]}},
            r"hierarchy\.criterion_words must have hierarchy\.criterion beside it",
        ),
        (
            {"hierarchy": {"criterion": "organ", "criterion_words": ["lung", "eye", "eye"]}},
            r"criterion_words must hold each word once, and holds 'eye' again, got .*; remove it",
        ),
        (
            {"criteria": {"organ": "which organ"}, "hierarchy": {"criterion": "which kind"}},
            r"criteria and hierarchy\.criterion exclude one another; leave hierarchy\.crit",
        ),
        (
            {"criteria": {"organ": "which organ"}, "summaries": {"engine": "keyphrases"}},
            r"criteria\.organ\.words must be given where summaries\.engine is keyphrases",
        ),
        (
            {"criteria": {"organ": "which organ"}, "embedding": {"prompt": "By {criterion}: "}},
            r"embedding\.prompt must not hold \{criterion\} beside criteria",
        ),
        ({"criteria": {"../organ": "which organ"}}, r"criteria.*organ"),
        ({"embedding": {"long_text": "split"}}, "long_text must be 'truncate' or 'window'"),
        (
            {"input": {"path": "x", "modality": "sound"}},
            "modality must be 'text', 'im",
        ),
        (
            {"input": {"path": "x", "columns": ["a"], "image_column": "b"}},
            r"input\.columns and input\.image_column exclude one another: a run has one modality",
        ),
        (
            {"input": {"path": "x", "columns": ["a", "a"]}},
            "must name each column once, got 'a' again",
        ),
        ({"input": {"path": ""}}, r"input\.path must name at least one file"),
        ({"input": {"path": []}}, r"input\.path must name at least one file"),
        ({"input": {"path": ["a", ""]}}, r"input\.path must name at least one file"),
        ({"embedding": {"precision": "int8"}}, r"embedding\.precision .*'float32'.*got 'int8'"),
        ({"summaries": {"timeout_seconds": 0}}, r"summaries\.timeout_seconds must be above 0"),
        ({"summaries": {"temperature": float("nan")}}, r"summaries\.temperature .*got nan"),
        ({"summaries": {"endpoint": "ftp://x"}}, r"summaries\.endpoint must start with http"),
        ({"summaries": {"endpoint": "http://x:- /v1"}}, r"endpoint must name a host in ASCII"),
        ({"embedding": {"endpoint": "http://:80/v1"}}, r"endpoint must name a host in ASCII"),
        ({"storage": {"endpoint": "http://[::1"}}, r"storage\.endpoint must name a host in ASCII"),
        ({"summaries": {"endpoint": "http://me:pw@x/v1"}}, r"give the key in OPENAI_API_KEY"),
        ({"resources": {"workers": 0}}, r"resources\.workers must be at least 1, got 0"),
        ({"reduction": {"components": 4}}, r"reduction\.components must be at most 3, got 4"),
        (
            {"input": {"path": "x", "text_column": "t", "label_columns": ["t"]}},
            "label_columns must not hold 't', a column that is clustered",
        ),
        (
            {"input": {"path": "x", "label_columns": ["a", "a"]}},
            "label_columns must name each column once",
        ),
    ],
)
def test_an_impossible_value_names_its_rule(sections: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(**sections)


def test_the_criterion_is_in_the_prompt_of_the_encoder_and_the_topic_is_a_criterion() -> None:
    own: dict[str, Any] = {"path": "x.txt", "modality": "text"}
    by_intent = parse(
        input=own,
        hierarchy={"criterion": "which intent it has"},
        embedding={"prompt": "Find {criterion}: "},
    )
    encoder = ResolvedConfig.of(by_intent, by_intent.input).text_embedding
    assert encoder.prompt == "Find which intent it has: "
    assert encoder.criterion == by_intent.criterion == "which intent it has"
    # The paper's topic seed is about titles alone.
    on_banks = parse(input=own, summaries={"topic": "banks"})
    assert on_banks.criterion == "banks"
    assert ResolvedConfig.of(on_banks, on_banks.input).text_embedding.criterion is None


@pytest.mark.parametrize(
    "hierarchy",
    [
        {"method": "agglomerative", "levels": [5000, 5], "resampling": {"rounds": 0}},
        {"method": "kmeans", "refinement": "none", "resampling": {"rounds": 2}},
        {"method": "kmeans", "levels": [5001], "resampling": {"rounds": 2}},
    ],
)
def test_a_method_that_fits_the_rest_is_taken(hierarchy: dict[str, object]) -> None:
    assert parse(hierarchy=hierarchy).hierarchy.method == hierarchy["method"]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (
            {"hierarchy": {"smoothing": {"neighbours": -1}}},
            "hierarchy.smoothing.neighbours must be at least 0 or 'auto', got -1; give the number "
            "of neighbours that each vector is averaged with; 0 is off; auto decides on a sample",
        ),
        (
            {"input": {"path": ["a", 3]}},
            "input.path.1 must be text, got 3; give the path of a file, folder or glob, or a list "
            "of these (parquet, csv, jsonl, json, txt, npy, or images)",
        ),
        (
            {"input": {"path": "x", "metadata": {"name": {"unit": 3}}}},
            "input.metadata.name.unit must be text, got 3; give the unit, such as cm",
        ),
        (
            {"summaries": {"examples": [{"items": ["a"], "title": "", "description": "b"}]}},
            "summaries.examples.0.title must not be empty, got ''; give the title of these items",
        ),
        (
            {"embedding": {"price": 1.0}},
            "embedding: price needs engine openai, got sentence-transformers; leave it out",
        ),
    ],
)
def test_a_mistake_in_a_union_a_list_or_several_keys_is_one_line(
    sections: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError, match=f"^configuration: {re.escape(line)}$"):
        parse(**sections)


def test_every_key_is_described_by_a_noun_phrase() -> None:
    openings = ("a ", "an ", "the ", "what ", "how ", "where ", "of ", "such as ", "stop ", "show ")
    for name, field in leaves(RunConfig):
        assert field.description, name
        assert not field.description.startswith(openings), name
        assert ("whether " in field.description) == (field.annotation is bool), name


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"hierarchy\.sed .*; also resources\.workers"):
        parse(hierarchy={"sed": 1}, resources={"workers": 0})


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("hierarchy.seed=3", "hierarchy.seed", 3),
        ("hierarchy.levels=[9, 3]", "hierarchy.levels", [9, 3]),
        ("hierarchy.levels=auto", "hierarchy.levels", "auto"),
        ("hierarchy.resampling.points_per_cluster=1", "hierarchy.resampling.points_per_cluster", 1),
        ("summaries.topic=a=b", "summaries.topic", "a=b"),
        ("summaries.topic=", "summaries.topic", None),
        ('output.path="7"', "output.path", "7"),
    ],
)
def test_set_changes_one_key(tmp_path: Path, override: str, key: str, value: object) -> None:
    found: object = load_config(write(tmp_path, MINIMAL), [override])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


def test_the_last_set_wins(tmp_path: Path) -> None:
    overrides = ["hierarchy.seed=1", "hierarchy.seed=2"]
    assert load_config(write(tmp_path, MINIMAL), overrides).hierarchy.seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hierarchy.seed", "must be key=value, such as"),
        ("=1", "must be key=value, such as"),
        ("hierarchy..seed=1", "must be key=value, such as"),
        ("input.path.x=1", "path holds 'in.txt', not a section"),
        ("hierarchy.levels=[3", "the value must be YAML"),
        ("hierarchy.levels=" + "[" * 5000, "the value must be YAML"),
        ("hierarchy.sed=1", "did you mean seed"),
    ],
)
def test_a_wrong_set_says_what_is_wrong(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping of sections such as input and output, got NoneType"),
        ("[a, b]", "must be a mapping of sections such as input and output, got list"),
        ("input: [", "must be YAML: while parsing"),
        ("[" * 5000, "must be YAML"),
        ("input: 2024-99-99", "must be YAML: month must be in"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file.*give a YAML file"):
        load_config(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="Is a directory; give a YAML file"):
        load_config(str(tmp_path))


def test_a_file_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes("input: {path: café}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run\.yaml: must be UTF-8"):
        load_config(str(tmp_path / "run.yaml"))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(["auto", "str", "input", "http://a@b", "levels", "s3://x"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(SCALARS, inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), values=st.lists(VALUES, min_size=1, max_size=3))
def test_a_value_put_anywhere_gives_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, values: list[object]
) -> None:
    tree = yaml.safe_load(FULL)
    draw = random.Random(seed)
    for value in values:
        place: object = tree
        while isinstance(place, dict) and place:
            key = draw.choice(list(place))
            if not isinstance(place[key], dict) or draw.random() < 0.3:
                place[value if draw.random() < 0.2 and _is_key(value) else key] = value
                break
            place = place[key]
    check(tmp_path_factory, yaml.safe_dump(tree).encode("utf-8", "replace"))


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(FULL)), st.integers(0, 12), st.binary(max_size=4)),
        min_size=1,
        max_size=3,
    )
)
def test_an_edit_of_the_file_gives_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int, bytes]]
) -> None:
    data = FULL.encode()
    for place, length, new in edits:
        data = data[:place] + new + data[place + length :]
    check(tmp_path_factory, data)


def _is_key(value: object) -> bool:
    return not isinstance(value, list | dict)


def check(folders: pytest.TempPathFactory, data: bytes) -> None:
    path = folders.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        config = load_config(str(path))
    except ConfigError as error:
        assert str(error).startswith("configuration")  # noqa: PT017
    else:
        assert isinstance(config, RunConfig)


def test_a_number_too_long_to_show_is_refused_like_any_other() -> None:
    sections = {"hierarchy": {"seed": 16**5000}, "input": {"path": "x"}, "output": {"path": "y"}}
    with pytest.raises(ConfigError, match=r"hierarchy\.seed .*, got a number too long to show"):
        parse_config(sections)


@pytest.mark.parametrize(
    ("summaries", "size", "exemplars", "prompt_tokens"),
    [
        ({}, "small", 8, 1536),
        ({"model": "qwen2.5-coder-0.5b"}, "small", 8, 1536),
        ({"model": "qwen2.5-coder-1.5b"}, "medium", 16, 4000),
        ({"model": "owner/Some-7B-Instruct"}, "large", 16, 4000),
        ({"model": "owner/Some-270m-it"}, "small", 8, 1536),
        ({"engine": "openai", "model": "small-135m"}, "large", 16, 4000),
        ({"engine": "keyphrases"}, "small", 8, 1536),
        ({"exemplars": 7, "prompt_size": "large"}, "large", 7, 4000),
        ({"exemplars": None}, "small", 8, 1536),
    ],
)
def test_prompts_fit_the_size_of_the_model(
    summaries: dict[str, object], size: str, exemplars: int, prompt_tokens: int
) -> None:
    values = {"input": {"path": "in"}, "output": {"path": "out"}, "summaries": summaries}
    found = parse_config(values).summaries
    assert (found.prompt_size, found.exemplars, found.max_prompt_tokens) == (
        size,
        exemplars,
        prompt_tokens,
    )


def leaves(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def test_every_key_says_who_may_set_it_and_when() -> None:
    found = dict(leaves(RunConfig))
    assert len(found) > 100
    rules = {name: field.json_schema_extra for name, field in found.items()}
    assert all(rule and rule.keys() == {"tables", "browser"} for rule in rules.values())
    # Places, code and servers that would get somebody's key.
    closed = {name for name, rule in rules.items() if not rule["browser"]}
    assert {name for name in closed if not name.startswith("storage.")} == {
        *("input.path", "input.image_column", "input.image_sources", "output.path"),
        *("embedding.cache", "embedding.endpoint", "embedding.trust_remote_code"),
        *("summaries.vocabulary", "summaries.endpoint", "summaries.engine_kwargs"),
        *("privacy.redact", "criteria"),
    }
    assert closed >= {name for name in found if name.startswith("storage.")}
    resumes = {name for name, rule in rules.items() if not rule["tables"]}
    assert {name.partition(".")[0] for name in resumes} == {
        *("embedding", "summaries", "privacy", "resources", "storage", "output")
    }
    assert all(RunConfig.decides_tables(name) == (name not in resumes) for name in found)
    assert not RunConfig.decides_tables("summaries.price.prompt")
    assert RunConfig.decides_tables("hierarchy.key_of_another_version")
    assert not RunConfig.decides_tables("resources.key_of_another_version")
