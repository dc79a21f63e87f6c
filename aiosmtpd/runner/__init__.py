"""``aiosmtpd serve``: one configuration file, a master process and its workers."""
