"""Options of all verbs, each declared once, in dataclasses."""
