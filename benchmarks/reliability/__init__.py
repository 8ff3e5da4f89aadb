"""Attacks on every promise; figures in docs/reliability.md."""
