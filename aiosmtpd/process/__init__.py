"""What every program needs of its process: certificates, users, rights, signals."""
