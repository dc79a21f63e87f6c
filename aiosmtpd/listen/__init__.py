"""Addresses, their sockets, and accepting connections on them."""
