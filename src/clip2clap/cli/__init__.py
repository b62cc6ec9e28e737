"""The command line's verbs, one a module; whatever is slow to import is imported by the verb."""
