"""The command line: options, the server's program, send and wait."""
