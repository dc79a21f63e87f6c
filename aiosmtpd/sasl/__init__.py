"""SASL mechanisms, without a socket and without a reply."""
