"""Fit a translator and measure it."""
