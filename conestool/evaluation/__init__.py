"""What a concept does: losses, alignment of pictures, drift and presence, each beside its controls."""

from __future__ import annotations

from conestool.evaluation.alignment import ImageMetric
from conestool.evaluation.attribute_metric import AttributeMetric, judge_for
from conestool.evaluation.encoders import load_clip, load_dino, load_metrics
from conestool.evaluation.evaluate import Plan, evaluate
from conestool.evaluation.prompts import TEMPLATES, check_templates
from conestool.evaluation.report import ConceptReport, Gates, Presence, Report, Row

__all__ = [
    "TEMPLATES",
    "AttributeMetric",
    "ConceptReport",
    "Gates",
    "ImageMetric",
    "Plan",
    "Presence",
    "Report",
    "Row",
    "check_templates",
    "evaluate",
    "judge_for",
    "load_clip",
    "load_dino",
    "load_metrics",
]
