"""What the commands print is what was said: names hold brackets, colons and the like."""

import pytest

from shardmill.cli.output import Output


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.say("a:child:b [red]c[/] :smile:")
    output.error("d:cat:e [bold]")
    out, err = capsys.readouterr()
    assert out == "a:child:b [red]c[/] :smile:\n"
    assert err == "error: d:cat:e [bold]\n"
