"""Recipes of models that the package ships."""
