"""The one error class that every user's mistake derives from."""


class UserError(ValueError):
    """A mistake that the user can mend: one line, what was wrong and what to do about it."""
