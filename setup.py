"""Packaging entry point: the metadata stands in pyproject.toml, except the licence.

The licence is here because setuptools before 77 wants it as a table and later ones as a string; ``setup()`` takes the
string in all of them, and a GPU machine without a registry builds with whatever setuptools it has.
"""

from setuptools import setup

setup(license="Apache-2.0")
