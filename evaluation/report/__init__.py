"""Evaluation report page."""
