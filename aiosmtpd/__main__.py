# PYTHON_ARGCOMPLETE_OK
"""Run the server: ``python -m aiosmtpd``."""

from aiosmtpd.main import main

if __name__ == "__main__":
    main()
