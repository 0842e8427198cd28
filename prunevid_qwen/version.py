"""The package's version, in the one place that packaging, the receipt and ``prunevid --version`` read."""

__version__ = "0.1.0"
