"""Decode text by the name of its charset, as the encoding standard of the web does.

Names in mail are often too narrow: ``gb2312`` for GBK, ``iso-8859-1`` for windows-1252. The
standard (https://encoding.spec.whatwg.org/, section 4.2) gives each name the charset that all such
text can be read with. Charsets that it lacks are those of Python.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import cache

_LABELS = """
utf-8: unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8
cp866: 866 cp866 csibm866 ibm866
iso8859_2: csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2
iso8859_3: csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3
iso8859_4: csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4
iso8859_5: csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5
 iso_8859-5:1988
iso8859_6: arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e
 iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987
iso8859_7: csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597
 iso_8859-7 iso_8859-7:1987 sun_eu_greek
iso8859_8: csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598
 iso_8859-8 iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical
iso8859_10: csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6
iso8859_13: iso-8859-13 iso8859-13 iso885913
iso8859_14: iso-8859-14 iso8859-14 iso885914
iso8859_15: csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9
iso8859_16: iso-8859-16
koi8_r: cskoi8r koi koi8 koi8-r koi8_r
koi8_u: koi8-ru koi8-u
mac_roman: csmacintosh mac macintosh x-mac-roman
cp874: dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874
cp1250: cp1250 windows-1250 x-cp1250
cp1251: cp1251 windows-1251 x-cp1251
cp1252: cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 iso_8859-1
 iso_8859-1:1987 l1 latin1 windows-1252 x-cp1252
ascii: ansi_x3.4-1968 ascii us-ascii
cp1253: cp1253 windows-1253 x-cp1253
cp1254: cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5
 latin5 windows-1254 x-cp1254
cp1255: cp1255 windows-1255 x-cp1255
cp1256: cp1256 windows-1256 x-cp1256
cp1257: cp1257 windows-1257 x-cp1257
cp1258: cp1258 windows-1258 x-cp1258
mac_cyrillic: x-mac-cyrillic x-mac-ukrainian
gb18030: chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030
big5: big5 big5-hkscs cn-big5 csbig5 x-x-big5
euc-jp: cseucpkdfmtjapanese euc-jp x-euc-jp
iso-2022-jp: csiso2022jp iso-2022-jp
cp932: csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis
cp949: cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601
 ksc_5601 windows-949
utf-16-be: unicodefffe utf-16be
utf-16-le: csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le
"""

_CODECS = {
    label: line.partition(":")[0]
    for line in _LABELS.replace("\n ", " ").strip().split("\n")
    for label in line.partition(": ")[2].split()
}

_WITHOUT_ALIASES = (
    "cp1006 cp720 cp737 cp856 cp874 cp875 koi8_t koi8_u mac_arabic mac_croatian mac_farsi "
    "mac_romanian utf_8_sig"
)
_OF_PYTHON = frozenset({*aliases, *aliases.values(), *_WITHOUT_ALIASES.split()})
"""Codecs of Python, and their other names. It keeps all names that it does not know in memory."""

_IN_PIECES = frozenset(_CODECS.values()) - {"iso-2022-jp"}
"""Codecs that read a text alike piece by piece; some others raise an error, or are slow."""

# Codecs that take quadratic time, or that are for program text: mail does not use them.
_NO_CHARSETS = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"})

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
)

_SURROGATE = re.compile("[\ud800-\udfff]")
_WINDOWS = re.compile("cp125[0-8]|cp874")

_META = re.compile(rb"<meta[\s/][^>]*?\bcharset\s*+=\s*+[\"']?\s*+([^\s\"'/>;]{1,60})", re.I)
_SEARCHED = 1024
"""How many bytes of HTML may hold the element that names the charset."""


def decode(data: bytes, label: str, *, html: bool = False) -> str:
    """Return *data* as text; *label* names the charset, ``""`` if the message does not.

    Without a name, a byte order mark counts, then in *html* a ``meta`` element (HTML 13.2.3.2),
    then UTF-8. Bytes that are not text become U+FFFD.
    """
    if not label and data.isascii() and b"\x1b" not in data and not html:
        return data.decode("ascii")
    return _decoded(data, _codec(data, label, html=html)).removeprefix("\ufeff")


Pieces = Callable[[], Iterator[bytes]]


def decode_pieces(read: Pieces, label: str, *, html: bool = False) -> Iterator[str]:
    """Yield the text of the pieces of a large body, which each call of *read* yields anew.

    All as :func:`decode` does it, but without the whole body in memory.
    """
    name = _codec(next(read(), b""), label, html=html)
    if name not in _IN_PIECES:
        yield decode(b"".join(read()), label, html=html)
        return
    begun = False
    for piece in _decoded_pieces(read, name):
        yield piece if begun else piece.removeprefix("\ufeff")
        begun = begun or bool(piece)


def _codec(data: bytes, label: str, *, html: bool) -> str:
    """Return the name of the codec for a body that begins with *data*."""
    name = _codec_of(label) or _codec_of_mark(data) or (_codec_of_page(data) if html else "")
    if name.startswith("utf-16"):
        # The mark says which byte comes first, whatever the name says.
        marked = _codec_of_mark(data)
        name = marked if marked.startswith("utf-16") else name
    return name or "utf-8"


def is_known(label: str) -> bool:
    """Return True if there is a codec for a charset of this name."""
    return bool(_codec_of(label))


def _codec_of(label: str) -> str:
    """Return the name of the codec, ``""`` without one."""
    label = label.strip(" \t\r\n\f\"'").lower()
    if label in _CODECS:
        return _CODECS[label]
    if normalize_encoding(label) not in _OF_PYTHON:
        return ""
    try:
        name = codecs.lookup(label).name
    except Exception:  # for example if the codec's module cannot be imported
        return ""
    return "" if name in _NO_CHARSETS else _CODECS.get(name, name)


def _codec_of_mark(data: bytes) -> str:
    return next((name for mark, name in _BOMS if data.startswith(mark)), "")


def _codec_of_page(data: bytes) -> str:
    found = _META.search(data[:_SEARCHED])
    name = _codec_of(found[1].decode("latin-1")) if found else ""
    # A page whose element can be read is not in UTF-16 (HTML 13.2.3.2).
    return "utf-8" if name.startswith("utf-16") else name


def _decoded(data: bytes, name: str) -> str:
    with suppress(Exception):
        if _WINDOWS.fullmatch(name):
            return codecs.charmap_decode(data, "replace", _windows(name))[0]
        return _SPECIAL[name](data) if name in _SPECIAL else _characters(data.decode(name))
    # Not in an ``except`` clause: the error has a copy of the data.
    return _leniently(data, name)


def _decoded_pieces(read: Pieces, name: str) -> Iterator[str]:
    errors = "replace"
    if name == "ascii":
        name = "utf-8" if _can_be(read, "utf-8") else "cp1252"
    elif name == "big5":
        name = next((one for one in _BIG5 if _can_be(read, one)), _BIG5[0])
    elif name == "euc-jp":
        name = "euc_jp"
        unknown = sum(one.count("\ufffd") for one in codecs.iterdecode(read(), name, errors))
        errors = "aiosmtpd.added" if 0 < unknown <= _MOST_ADDED else errors
    if _WINDOWS.fullmatch(name):
        for piece in read():
            yield codecs.charmap_decode(piece, errors, _windows(name))[0]
    else:
        yield from codecs.iterdecode(read(), name, errors)


def _can_be(read: Pieces, name: str) -> bool:
    try:
        return all(isinstance(piece, str) for piece in codecs.iterdecode(read(), name))
    except UnicodeDecodeError:
        return False


def _leniently(data: bytes, name: str) -> str:
    for codec in name, "utf-8":
        try:
            return _characters(data.decode(codec, "replace"))
        except Exception:  # noqa: S112 - for example a codec that is not one for text
            continue
    return ""  # pragma: no cover - UTF-8 replaces all that it cannot read


def _characters(text: str) -> str:
    """Replace surrogates, which are not characters: UTF-7 can spell them."""
    return _SURROGATE.sub("?", text) if not text.isascii() and _SURROGATE.search(text) else text


@cache
def _windows(codec: str) -> str:
    """Return the characters of a charset of Windows; bytes that Python's lacks are controls."""
    bytes_ = (bytes([byte]).decode(codec, "ignore") or chr(byte) for byte in range(256))
    return "".join(bytes_)


def _ascii(data: bytes) -> str:
    # A program that says US-ASCII has not looked: UTF-8 is the likeliest other charset.
    try:
        return data.decode()
    except UnicodeDecodeError:
        return codecs.charmap_decode(data, "replace", _windows("cp1252"))[0]


_BIG5 = ("big5hkscs", "cp950")


def _big5(data: bytes) -> str:
    for codec in _BIG5:
        with suppress(UnicodeDecodeError):
            return data.decode(codec)
    return data.decode("big5hkscs", "replace")


# Programs in Japan use letters that Microsoft added to JIS X 0208, such as "①" and "㈱". Only the
# codec of its Shift_JIS has them.

_MOST_ADDED = 10_000
"""Letters of one text that are looked up there: that is slow."""


def _japanese(data: bytes, codec: str) -> str:
    text = data.decode(codec, "replace")
    if not 0 < text.count("\ufffd") <= _MOST_ADDED:
        return text
    del text
    return data.decode(codec, "aiosmtpd.added")


def _added(error: UnicodeError) -> tuple[str, int]:
    """Decode a pair of bytes that is not in JIS X 0208: an error handler of codecs."""
    if not isinstance(error, UnicodeDecodeError):  # pragma: no cover - only decode() has it
        raise error
    pair = error.object[error.start : error.start + 2]
    row, cell = (byte & 0x7F for byte in pair) if len(pair) == 2 else (0, 0)
    if 0x21 <= row <= 0x7E and 0x21 <= cell <= 0x7E:
        lead = (row + 1) // 2 + (0x70 if row < 0x5F else 0xB0)
        trail = cell + 0x7E if row % 2 == 0 else cell + 0x1F + (cell >= 0x60)
        letter = bytes((lead, trail)).decode("cp932", "ignore")
        if len(letter) == 1:
            return letter, error.start + 2
    return "\ufffd", error.end


codecs.register_error("aiosmtpd.added", _added)

_SPECIAL: dict[str, Callable[[bytes], str]] = {
    "ascii": _ascii,
    "big5": _big5,
    "euc-jp": lambda data: _japanese(data, "euc_jp"),
    "iso-2022-jp": lambda data: _japanese(data, "iso2022_jp_ext"),
}
