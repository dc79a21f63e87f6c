"""The deprecated forms of 1.4, which version 2.0 would delete."""
