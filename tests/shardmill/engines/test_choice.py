"""One word chooses the engine."""

import re

import pytest

from shardmill.engines import LocalEngine, choose_engine
from shardmill.errors import ConfigurationError


def test_this_machine_is_the_default() -> None:
    engine = choose_engine(workers=3)
    assert isinstance(engine, LocalEngine)
    assert engine.workers == 3


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("loca", "there is no engine 'loca'; did you mean 'local'?"),
        ("spark://head:7077", "there is no engine 'spark://head:7077'; there are local, ray, beam"),
        ("local://here", "the local engine has no address"),
        ("", "there is no engine ''; there are local, ray, beam"),
    ],
)
def test_what_is_no_engine_is_an_error_that_names_those_that_are(word: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(said)}"):
        choose_engine(word)
