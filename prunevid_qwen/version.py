"""The package's version, and the releases of transformers that it was tested with: each said here alone."""

__version__ = "0.2.0"

# The releases that `make test-matrix` runs the tests under: the oldest supported, the newest, and those between where a
# seam moved or a year turned. Any other has to pass the self-check first.
TESTED = ("5.6.2", "5.10.4", "5.17.0", "5.18.0", "5.20.2", "5.23.0", "5.24.0")
PIP_NEWEST = f"The newest tested release: pip install 'transformers=={TESTED[-1]}'"
