"""Placeholder: the face of the package is written with the API."""
