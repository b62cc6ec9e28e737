"""Foundations of every package: errors, files, threads, HTTP, hub, presets. No models."""
