from __future__ import annotations

import pytest

from hercules_scale.config.file import parse_config
from hercules_scale.errors import ConfigError
from hercules_scale.sanitize import printable, printable_lines, without_secrets

SIGNED = "https://store.example.com/a.png?X-Amz-Expires=60&X-Amz-Signature=c4na6y&v=2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 日本 🙂", "Größe 日本 🙂"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("\ud800\x00\x9b", "\\ud800\\x00\\x9b"),
        # Joiners are letters of Persian and of the scripts of India, and of no other.
        ("می\u200cخواهم क्\u200dष", "می\u200cخواهم क्\u200dष"),
        ("a\u200cb \u200d", "a\\u200cb \\u200d"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable_lines(f"{text}\n{text}") == f"{shown}\n{shown}"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (SIGNED, "https://store.example.com/a.png?X-Amz-Expires=60&***&v=2"),
        ("at 'http://user:pa55@host/v1'", "at 'http://***@host/v1'"),
        ("https://t0ken@host", "https://***@host"),
        ("s3://ID:c4na6y@bucket/x", "s3://***@bucket/x"),
        ("az://box@account/x?sig=c4na6y", "az://box@account/x?***"),
        ("s3://bucket/key=3/secret=no.parquet", "s3://bucket/key=3/secret=no.parquet"),
        ("refused: Bearer sk-c4na6y-long.", "refused: Bearer ***."),
    ],
)
def test_secrets_are_left_out_of_what_is_told(
    text: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-c4na6y-long")
    assert without_secrets(text) == kept


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("summaries", {"endpoint": "https://user:c4na6y@host/v1"}, "must hold no password or key"),
        ("summaries", {"endpoint": "https://host/v1?api-key=c4na6y"}, "give the key in OPENAI_API"),
        (
            "input",
            {"path": SIGNED},
            r"input\.path must hold no password, key or signature, got .*; give",
        ),
        ("input", {"path": ["a.csv", "s3://ID:c4na6y@bucket/"]}, "must hold no password, key or"),
        ("output", {"path": "az://box/x?sig=c4na6y"}, r"output\.path must hold no password, key"),
    ],
)
def test_a_secret_in_the_configuration_is_refused_and_not_repeated(
    section: str, values: dict[str, object], message: str
) -> None:
    config = {"input": {"path": "a.csv"}, "output": {"path": "run"}}
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config({**config, section: {**config.get(section, {}), **values}})
    assert "c4na6y" not in str(caught.value)
