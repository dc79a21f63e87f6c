"""Two files keep the messages that have just arrived, also if the process is killed.

A commit of the database takes longer than all else that is done for a message, and it would need
another thread. So a message is safe as soon as it is at the end of a file. It is described and put
into the database a moment later, many in one commit.

When the database has all messages of a file, the next ones overwrite them: to cut the file might
have to wait for the disk. The database knows the number of the last one that it has. The files are
used in turns, so that this happens now and then even if messages come all the time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from zlib import crc32

FULL = 1 << 20
"""Bytes of a file after which the other one is used."""

_HEAD = Struct("<IIII")
"""The checksum of a record and the bytes of its three fields: number, envelope and content."""


class Record:
    """A message as it arrived: *number* in the store, what is known of it as JSON, and its data."""

    __slots__ = ("content", "envelope", "number")

    def __init__(self, number: int, envelope: str, content: bytes) -> None:
        self.number = number
        self.envelope = envelope
        self.content = content

    def packed(self) -> bytes:
        """Return it as it is in a file."""
        fields = str(self.number).encode(), self.envelope.encode(), self.content
        data = b"".join(fields)
        return _HEAD.pack(crc32(data), *map(len, fields)) + data


class Arrivals:
    """Both files; at most one thread at a time may call a method. The methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self._files: list[_File] = []
        # For each message that is not yet in the database, its file.
        self._waiting: deque[_File] = deque()
        try:
            for end in "12":
                self._files.append(_File(f"{path}-new{end}"))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Return the number of messages that are not yet in the database."""
        return len(self._waiting)

    def read(self) -> list[Record]:
        """Return the messages that another process left, by their numbers.

        There may be some among them that the database has.
        """
        found = [record for file in self._files for record in file.read()]
        return sorted(found, key=lambda record: record.number)

    def empty(self) -> None:
        """Cut the files that have no message which is not yet in the database."""
        for file in self._files:
            if not file.waiting:
                file.empty()

    def add(self, record: Record) -> None:
        """Keep a message; without an error, it is safe."""
        file, other = self._files
        if file.position >= FULL and not other.waiting:
            self._files.reverse()
            file = other
        file.add(record)
        self._waiting.append(file)

    def stored(self, count: int) -> None:
        """Note that the database has the next messages, in the order in which they came."""
        for _ in range(count):
            self._waiting.popleft().waiting -= 1

    def close(self) -> None:
        """Close the files; remove those that have no message which is not in the database."""
        for file in self._files:
            file.close()


class _File:
    def __init__(self, path: str) -> None:
        self.position = self.waiting = 0
        # False if the place of the file may be another one.
        self._is_placed = False
        self._path = path
        binary = getattr(os, "O_BINARY", 0)
        self._number = os.open(path, os.O_CREAT | os.O_RDWR | binary, 0o600)
        # Its messages are unknown until they are read.
        self._size = os.fstat(self._number).st_size
        self._is_kept = self._size > 0

    def add(self, record: Record) -> None:
        data = record.packed()
        if not (self.waiting and self._is_placed):
            self.position = self.position if self.waiting else 0
            os.lseek(self._number, self.position, os.SEEK_SET)
        # Not after a piece of this record, if the disk refuses the rest.
        self._is_placed = False
        if os.write(self._number, data) < len(data):
            raise OSError(f"no space left for {self._path}")
        self._is_placed = True
        self.position += len(data)
        self._size = max(self._size, self.position)
        self.waiting += 1

    def read(self) -> Iterator[Record]:
        data, position = Path(self._path).read_bytes(), 0
        while position + _HEAD.size <= len(data):
            checksum, *sizes = _HEAD.unpack_from(data, position)
            begin = position + _HEAD.size
            position = begin + sum(sizes)
            is_whole = begin < position <= len(data)
            if not is_whole or crc32(data[begin:position]) != checksum:
                # The end of the process came before the end of the record, or older ones follow.
                # After a power cut, there may be zeros.
                return
            number = data[begin : begin + sizes[0]]
            envelope = data[begin + sizes[0] : position - sizes[2]]
            yield Record(int(number), envelope.decode(), data[position - sizes[2] : position])

    def empty(self) -> None:
        self._is_kept = False
        if self._size:
            os.ftruncate(self._number, 0)
            self._size = self.position = 0

    def close(self) -> None:
        os.close(self._number)
        if not (self.waiting or self._is_kept):
            os.unlink(self._path)
