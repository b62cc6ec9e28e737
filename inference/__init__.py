"""Generate from translated vectors."""
