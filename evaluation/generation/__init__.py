"""Evaluation of generated audio and images."""
