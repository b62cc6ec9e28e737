"""Options of all verbs, each declared once: dataclasses of options that verbs take."""
