"""The recipe of the demo models."""
