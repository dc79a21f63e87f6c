"""Users and passwords in a file: ``USER:PASSWORD`` in each line."""

from __future__ import annotations

from pathlib import Path


def read_users(path: str) -> tuple[tuple[str, str], ...]:
    """Return the users and passwords in a file, without empty lines and comments (``#``).

    Raises ValueError with one line, in which no password is.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            user, _, password = line.partition(":")
            if not user or not password or "\0" in line:
                raise ValueError(f"{path}, line {number}: expected USER:PASSWORD")
            pairs.append((user, password))
    if not pairs:
        raise ValueError(f"{path} has no user: write USER:PASSWORD in a line")
    return tuple(pairs)
