"""Attacks over real sockets, each with a figure: `python -m tests.attack --list`."""
