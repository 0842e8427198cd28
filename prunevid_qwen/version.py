"""The package's version, in the one place that packaging, the receipt and ``prunevid --version`` read."""

__version__ = "0.1.0"

TESTED_TRANSFORMERS = ("5.6.2", "5.10.4", "5.17.0", "5.18.0", "5.20.2", "5.23.0", "5.24.0")
"""The releases of transformers that the tests were run under (``make test-matrix``), oldest first."""
