"""The error of wrong usage."""


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why in one line, and what to do."""
