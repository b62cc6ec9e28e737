"""Concurrent image download from untrusted servers."""
