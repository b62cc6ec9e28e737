"""Foundations that every package stands on: errors, files, hub, presets. No models."""
