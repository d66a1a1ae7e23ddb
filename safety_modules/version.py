"""The package's version: here, so that what writes it down need not import the whole package."""

__version__ = "0.1.0"
