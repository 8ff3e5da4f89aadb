"""What people see: cleaned, aligned, and plain where nothing can move."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from conestool.cli import _output


@pytest.fixture(autouse=True)
def normal() -> None:
    """Every test begins without -q and -v."""
    _output.configure(_output.NORMAL)


def test_rich_markup_is_shown_as_typed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A concept called [bold]x[/bold] keeps its brackets, on a terminal too."""
    monkeypatch.setattr(_output, "plain", lambda: False)
    _output.say("[bold]x[/bold] :dog: [/nothing]")
    assert "[bold]x[/bold] :dog: [/nothing]" in capfd.readouterr().err


def test_notes_are_plain_in_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    """No colour and no wrapping where stderr is no terminal, however long the line."""
    _output.say("word " * 100, "bold")
    assert capfd.readouterr().err == "word " * 100 + "\n"


def test_quiet_leaves_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    """-q drops notes and tables, never warnings and errors."""
    _output.configure(_output.QUIET)
    _output.say("note")
    _output.table([["a", "b"]])
    _output.warn("careful")
    _output.fail("no", "yes")
    assert capfd.readouterr().err == "warning: careful\nerror: no\n  yes\n"


def test_table_aligns_wide_and_narrow_characters(capfd: pytest.CaptureFixture[str]) -> None:
    """Columns line up by the cells that characters take, numbers flush right."""
    _output.table([["name", "n"], ["猫", "1"], ["ab", "1,000"]], right=(1,))
    assert capfd.readouterr().err == "  name      n\n  猫        1\n  ab    1,000\n"


SIGNED = partial(_output.percent, signed=True)
EIGHT = partial(_output.bar, columns=8)


@pytest.mark.parametrize(
    ("write", "rows"),
    [
        (_output.size, {812: "812 B", 41_234: "41.2 kB", 999_600: "1.0 MB", 3_100_000: "3.1 MB", 112_000: "112 kB"}),
        (_output.percent, {0.0065: "0.65 %", 0.00031: "0.031 %", 0.123: "12.3 %", 1.0: "100.0 %", 0.0: "0 %"}),
        (SIGNED, {-0.184: "-18.4 %", 0.002: "+0.2 %"}),
        (_output.duration, {48: "48 s", 59.7: "1 min 00 s", 200: "3 min 20 s", 3900: "1 h 05 min"}),
        (EIGHT, {0: "", 1e-9: "▏", 1: "█" * 8, 2: "█" * 8}),
    ],
)
def test_numbers_are_written_with_as_many_digits_as_matter(
    write: Callable[[float], str], rows: dict[float, str]
) -> None:
    """Decimal units, three figures at most; a little of something has an eighth of a cell."""
    assert {number: write(number) for number in rows} == rows


def test_plain_progress_prints_a_line_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps, loss and time left, no more than a line every ten seconds."""
    clock = iter([0.0, 4.0, 11.0, 12.0])
    monkeypatch.setattr("conestool.cli._output.time.monotonic", lambda: next(clock))
    with _output.progress("search", 4) as tick:
        for done in (1, 2, 3):
            tick(done, "loss 0.1000")
    assert capfd.readouterr().err == "search: 2/4, loss 0.1000, 11 s left\n"
