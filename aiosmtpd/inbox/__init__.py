"""What came, read: decoded messages, ways to print them, and waiting for one."""
