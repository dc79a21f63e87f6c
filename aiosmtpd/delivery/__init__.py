"""Deliver accepted messages: to a Maildir, the next hop or a command."""
