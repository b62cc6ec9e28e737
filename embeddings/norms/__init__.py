"""Norm reports of embedding tables."""
