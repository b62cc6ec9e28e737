"""Runners of published benchmarks: zero-shot classification, linear probes and retrieval."""
