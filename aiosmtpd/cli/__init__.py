"""The command line: options, the program of the server, and the commands send and wait."""
