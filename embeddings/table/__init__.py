"""Embedding table: a folder of Arrow shards."""
