"""Where accepted messages go: Maildir, the next hop, a command."""
