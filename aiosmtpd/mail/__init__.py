"""Reading and printing messages."""
