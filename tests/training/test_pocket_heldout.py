"""Pocket's training never reads what is held out for evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL")

from training.pocket import domain, icons


def _icon_set(name: str) -> icons.IconSet:
    data = {
        "icons": {"dog-face": {"body": ""}, "fox": {"body": ""}, "cat-face": {"body": ""}},
        "aliases": {"dog": {"parent": "dog-face"}},
    }
    return icons.IconSet(name, data)


def test_held_out_sets_are_no_training_sets() -> None:
    """openmoji is held out, and no held-out set is among the training sets."""
    sets, _ = domain.held_out()
    assert "openmoji" in sets
    assert not sets & set(domain.TRAIN_SETS)


def test_altered_subjects_come_from_training_designers() -> None:
    """Every altered instance names an icon of a training set; otherwise holding it out would mean nothing."""
    _, held = domain.held_out()
    assert held
    assert {icon.split(":")[0] for icon in held} <= set(domain.TRAIN_SETS)


def test_reading_a_held_out_set_is_refused(tmp_path: Path) -> None:
    """A held-out set is refused before its file is opened."""
    with pytest.raises(icons.HeldOutError, match="openmoji"):
        icons.IconSet.read(tmp_path, "openmoji")


def test_drawing_a_held_out_icon_is_refused() -> None:
    """An icon on the altered list cannot be drawn in training."""
    with pytest.raises(icons.HeldOutError, match="noto-v1:dog-face"):
        _icon_set("noto-v1").render("dog-face", 8)


def test_aliases_of_held_out_icons_are_left_out() -> None:
    """A manifest entry that reaches a held-out icon through an alias finds nothing; other sets keep theirs."""
    assert icons.find_icons(_icon_set("noto-v1"), "dog|fox") == ["fox"]
    assert icons.find_icons(_icon_set("noto"), "dog|fox") == ["dog-face", "fox"]
