"""What notebooks show: concepts, and one output of a cell in the place of bars."""

from __future__ import annotations

from PIL import Image

from conestool._display import NotebookBars
from conestool.concept import Cone
from tests.support.browser import Page
from tests.support.command_line import concept

EVIL = "<script>alert(1)</script>"


def test_a_concept_shows_name_neurons_losses_and_layers() -> None:
    """And a cone all of them; what a stranger wrote stays text."""
    evil = concept("hat", "zwx", seed=1, warnings=[EVIL])
    shown = Page(Cone((concept(), evil))._repr_html_())
    losses = "photos -25.0%, random weights +0.0%, class +10.0%"
    for part in ("dog", "sks dog", "neurons", losses, "down.0.0.0 self first"):
        assert part in shown.text
    assert shown.count("table") == 2 and EVIL in shown.text and not shown.count("script")
    assert shown.count("span") == 2 * 2
    assert evil._repr_html_() in Cone((concept(), evil))._repr_html_()


def test_a_notebooks_output_is_one_bar_that_moves() -> None:
    """One line for all stages, notes above it, pictures below; nothing is drawn more than four times a second."""
    view, drawn = NotebookBars(), list[str]()
    view.refresh = lambda: drawn.append(view.html())  # type: ignore[method-assign]
    view.last = float("inf")
    for done in range(1, 61):
        view.update("search", done, 60, f"loss {1 / done:.4f}")
    assert len(drawn) == 1 and "<progress max='60' value='60'>" in drawn[-1] and "loss 0.0167" in drawn[-1]
    view.say(f"warning: {EVIL}")
    view.show("after 60 of 60 steps", [Image.new("RGB", (64, 64), "red")])
    view.update("class images", 1, 4)
    shown = Page(view.html())
    assert shown.count("progress") == 1 and shown.count("img") == 1 and EVIL in shown.text
