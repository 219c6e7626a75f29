"""Benchmarks of operators, attention, networks and files, beside whatever else is installed.

``python -m scripts.benchmarks --help``, from the root of the repository.
"""
