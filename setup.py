"""Everything about the package stands in pyproject.toml; there is nothing to compile yet."""

from setuptools import setup

setup()
