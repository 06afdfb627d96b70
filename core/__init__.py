"""Darkroom: multi-task knowledge distillation, from text to a distilled student, example by example."""

__version__ = "0.1.0"
