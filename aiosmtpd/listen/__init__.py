"""Addresses, listening sockets, and accepting connections."""
