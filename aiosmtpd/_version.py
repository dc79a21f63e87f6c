"""The version, and nothing else."""

__version__ = "1.5.0a1"
