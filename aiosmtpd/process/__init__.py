"""Parts of every program: certificates, users, dropping rights, signals, a development CA."""
