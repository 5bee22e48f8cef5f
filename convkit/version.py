"""The version, in one place: the packaging metadata and the compiled library take it from here."""

__version__ = "0.1.0"
