"""Read the names and the dates of a certificate, which Python's own ssl shows of peers only."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from attrs import frozen

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

_UTC_TIME, _TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_COMMON_NAME = b"\x55\x04\x03"
_ALTERNATIVE_NAMES = b"\x55\x1d\x11"


@frozen
class Leaf:
    """A certificate: its names, in lower case, and the times between which it is valid.

    A name may begin with ``*.``; addresses are names too.
    """

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime | None = None) -> float:
        """Return the days until it expires; negative after that."""
        return (self.not_after - (now or datetime.now(UTC))) / timedelta(days=1)

    def fits(self, name: str) -> bool:
        """Return True if a client that asks for *name* may get this certificate."""
        name = name.lower().rstrip(".")
        wild = "*." + name.partition(".")[2]
        return name in self.names or ("." in name and wild in self.names)


def read_leaf(pem: str) -> Leaf:
    """Return the first certificate in a PEM text; raises ValueError if there is none."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no certificate in PEM form")
    try:
        return _leaf(ssl.PEM_cert_to_DER_cert(found[0]))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("not a certificate") from error


def _leaf(der: bytes) -> Leaf:
    _, certificate = next(_items(der))
    _, signed = next(_items(certificate))
    parts = [item for item in _items(signed) if item[0] != _VERSION]
    # serial number, algorithm, issuer, validity, subject, key, extensions: RFC 5280 section 4.1
    begin, end = (_time(*item) for item in _items(parts[3][1]))
    names: list[str] = []
    for tag, content in parts[6:]:
        if tag == _EXTENSIONS:
            names += _alternative_names(content)
    return Leaf(tuple(names or _common_names(parts[4][1])), begin, end)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tags and the contents of DER items that follow one another."""
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        if position + length > len(data):
            raise IndexError("an item ends after its container")
        yield tag, data[position : position + length]
        position += length


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280 section 4.1.2.5.1: years from 50 on are of the last century.
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif tag != _TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _common_names(subject: bytes) -> Iterator[str]:
    for _, part in _items(subject):
        for _, attribute in _items(part):
            (_, kind), (_, value) = _items(attribute)
            if kind == _COMMON_NAME:
                yield value.decode("utf-8", "replace").lower()


def _alternative_names(content: bytes) -> Iterator[str]:
    _, extensions = next(_items(content))
    for _, extension in _items(extensions):
        (_, kind), *_critical, (_, value) = _items(extension)
        if kind != _ALTERNATIVE_NAMES:
            continue
        _, names = next(_items(value))
        for tag, name in _items(names):
            if tag == _DNS_NAME:
                yield name.decode("ascii").lower()
            elif tag == _IP_ADDRESS and len(name) in (4, 16):
                yield str(ipaddress.ip_address(name))
