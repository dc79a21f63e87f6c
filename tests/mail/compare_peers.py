"""Compare our reading with nodemailer's mailparser and postal-mime, on messages made at random.

``python -m tests.mail.compare_peers --seed 1 --count 200`` prints each kind with the number of its
messages, and examples of those that no peer reads as we do. It needs Node.js and npm:
both packages are installed in a temporary folder, or in ``--folder``.
"""

import argparse
import json
import random
import subprocess
import tempfile
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable
from email.header import Header
from pathlib import Path
from quopri import encodestring
from typing import Any, NamedTuple

from aiosmtpd.mail import bodies
from aiosmtpd.mail.source import InMemory
from aiosmtpd.mail.tree import read

PACKAGES = ("mailparser", "postal-mime")

PROGRAM = """
import { simpleParser } from 'mailparser';
import PostalMime from 'postal-mime';
import fs from 'fs';
const options = { skipHtmlToText: true, skipTextToHtml: true, skipTextLinks: true,
                  skipImageLinks: true, keepCidLinks: true };
const file = one => ({ name: one.filename || '', type: one.contentType || one.mimeType || '',
                       content: Buffer.from(one.content || '').toString('base64') });
const lines = fs.readFileSync(0, 'utf8').trim().split('\\n');
for (const line of lines) {
  const bytes = Buffer.from(line, 'base64');
  const found = [];
  for (const parse of [() => simpleParser(bytes, options), () => PostalMime.parse(bytes)]) {
    try {
      const mail = await parse();
      found.push({ subject: mail.subject || '', text: mail.text || '', html: mail.html || '',
                   files: mail.attachments.map(file) });
    } catch (error) {
      found.push({ error: String(error) });
    }
  }
  console.log(JSON.stringify(found));
}
"""

Random = random.Random


class Reading(NamedTuple):
    """A message as one reader reads it."""

    subject: str
    text: str
    html: str
    files: list[tuple[str, str, bytes]]


WORDS = ["Hello", "Grüße", "日本語", "code", "482913", "https://a.test/?b=c&d=e", "=3D", "x" * 90]
CHARSETS = ["utf-8", "iso-8859-1", "windows-1252", "gb2312", "gbk", "shift_jis", "euc-jp", "euc-kr"]
CHARSETS += ["iso-2022-jp", "big5", "koi8-r", "iso-8859-15", "windows-1251", "x-sjis", "us-ascii"]
LETTERS = {"gb2312": "朱镕基 中文", "gbk": "朱镕基", "big5": "繁體字", "koi8-r": "Привет"}
LETTERS |= {"shift_jis": "日本①", "x-sjis": "日本㈱", "euc-jp": "日本語", "iso-2022-jp": "日本語テ"}
LETTERS |= {"euc-kr": "한국어", "windows-1251": "Привет", "us-ascii": "plain"}
CODECS = {"shift_jis": "cp932", "x-sjis": "cp932", "gb2312": "gbk"}


def sentence(rng: Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 6)))


def text_in(rng: Random, charset: str) -> bytes:
    letters = LETTERS.get(charset, "Grüße äöü")
    return f"{letters} {rng.randint(0, 999)}\r\n{letters}\r\n".encode(CODECS.get(charset, charset))


def encoded(rng: Random, data: bytes) -> tuple[str, bytes]:
    """Return the name of a transfer encoding, and data in it."""
    how = rng.choice(["8bit", "base64", "quoted-printable", "BASE64", "Quoted-Printable "])
    if how.lower().strip() == "base64":
        letters = b64encode(data)
        return how, b"\r\n".join(letters[at : at + 76] for at in range(0, len(letters), 76))
    if how != "8bit":
        return how, encodestring(data).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return how, data


def field(name: str, value: str) -> bytes:
    return f"{name}: {value}\r\n".encode()


def leaf(rng: Random, kind: str, data: bytes, rest: bytes = b"") -> bytes:
    how, body = encoded(rng, data)
    return (
        field("Content-Type", kind)
        + field("Content-Transfer-Encoding", how)
        + rest
        + (b"\r\n" + body)
    )


def multipart(rng: Random, kind: str, parts: list[bytes], end: bool = True) -> bytes:
    boundary = rng.choice(["b", "=_x 1", "----=_Part", "a'b", "b--"]) + str(rng.randint(0, 9999))
    spelt = rng.choice([f'"{boundary}"', f'\r\n "{boundary}"', f'"{boundary}"; x=y'])
    made = field("Content-Type", f"multipart/{kind}; boundary={spelt}") + b"\r\n"
    made += rng.choice([b"", b"preamble\r\n"])
    made += b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts)
    return made + (f"--{boundary}--\r\n".encode() if end else b"")


# The kinds.


def header_block(rng: Random) -> bytes:
    lines = [
        b"Subject: %d\r\n" % rng.randint(0, 99),
        b"From: a@example.com\r\n",
        rng.choice(
            [b"X-A: 1\r\n", b"no colon here\r\n", b">From a b c\r\n", b"X My Header: 1\r\n"]
        ),
        rng.choice([b"Subject : x\r\n", b"X-B:\r\n", b"X-C: a\r\n\tb\r\n", b"To: a,\r\nb@c\r\n"]),
    ]
    rng.shuffle(lines)
    start = rng.choice([b"", b"", b"\xef\xbb\xbf"])
    return start + b"".join(lines) + b"\r\nThe body.\r\n"


def subject(rng: Random) -> bytes:
    text = sentence(rng)
    value = rng.choice(
        [
            Header(text, "utf-8", maxlinelen=rng.choice([40, 76, 998])).encode(),
            "\r\n " + Header(text, "utf-8").encode(),
            text,
            f"=?utf-8?B?{b64encode(text.encode()).decode()}?=",
            f"=?UTF-8?b?{b64encode(text.encode()).decode().rstrip('=')}?= and =?utf-8?q?a_b?=",
            f"=?utf-8*de?q?{encodestring(text.encode(), header=True).decode()}?=",
            "=?utf-8?q?What??= =?utf-8?q?x?=y",
        ]
    )
    return field("Subject", value.replace("\r\n", "\n").replace("\n", "\r\n")) + b"\r\nbody\r\n"


def charset(rng: Random) -> bytes:
    name = rng.choice(CHARSETS)
    kind = rng.choice([f"text/plain; charset={name}", f'TEXT/PLAIN;\r\n\tCharset="{name.upper()}"'])
    return leaf(rng, kind, text_in(rng, name))


def charset_of_header(rng: Random) -> bytes:
    name = rng.choice(CHARSETS)
    word = b64encode(text_in(rng, name).split(b"\r\n")[0]).decode()
    return field("Subject", f"=?{name}?B?{word}?=") + b"\r\nbody\r\n"


def file_name(rng: Random) -> bytes:
    name = rng.choice(["a.pdf", "Übersicht 日本.pdf", "report (1).pdf", "a;b.pdf", 'q"uo.pdf'])
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    percent = "".join(f"%{byte:02X}" for byte in name.encode())
    half = len(percent) // 6 * 3
    spelt = rng.choice(
        [
            f'filename="{quoted}"',
            f"filename*=utf-8''{percent}",
            f"filename*=UTF-8'de'{percent}; filename=other.bin",
            f"filename*={percent}",
            f"filename*0*=utf-8''{percent[:half]};\r\n filename*1*={percent[half:]}",
            f'filename="{Header(name, "utf-8", maxlinelen=998).encode()}"',
            f'filename="{quoted}',
            f"filename={name.split(';')[0].split(chr(34))[0]}",
        ]
    )
    rest = field("Content-Disposition", f"attachment; {spelt}")
    part = leaf(rng, "application/pdf", bytes(range(rng.randint(0, 255))), rest)
    return multipart(rng, "mixed", [leaf(rng, "text/plain; charset=utf-8", b"see\r\n"), part])


def field_spelling(rng: Random) -> bytes:
    kind = rng.choice(
        [
            "text/html (comment); charset=utf-8",
            "text/html;charset=utf-8;",
            "Text/HTML; charset = utf-8",
            "text/html; charset=(c)utf-8",
            "text/html; charset='utf-8'",
            "text/html; charset=utf-8 (x)",
            "text/html",
            "text",
            "text/plain; format=fixed; charset=utf-8",
        ]
    )
    how = rng.choice(["base64", "base64 ", "base64;", "Base64 (c)", '"base64"', "(c) base64"])
    body = b64encode(b"<p>Gr\xc3\xbc\xc3\x9fe</p>\r\n")
    return field("Content-Type", kind) + field("Content-Transfer-Encoding", how) + b"\r\n" + body


def base64(rng: Random) -> bytes:
    letters = b64encode(bytes(rng.choice(b"abc \xc3\xa9") for _ in range(rng.randint(3, 40))))
    body = rng.choice(
        [
            letters.rstrip(b"="),
            letters + b"\r\n" + b64encode(b"footer"),
            letters[:5] + b" !\r\n" + letters[5:],
            letters + b"\r\n\r\n",
            letters + b"A",
        ]
    )
    return field("Content-Transfer-Encoding", "base64") + b"\r\n" + body


def quoted_printable(rng: Random) -> bytes:
    pieces = [b"a=\r\n", b"b=  \r\n", b"c  \r\n", b"=C3=A9", b"=c3=a9", b"=zz", b"=", b"=0D\r\n"]
    pieces += [b"=20\r\n", b"text ", b"\r\n", b"=3D", b"_", b"=\n"]
    body = b"".join(rng.choice(pieces) for _ in range(rng.randint(1, 8)))
    kind = field("Content-Type", "text/plain; charset=utf-8")
    return kind + field("Content-Transfer-Encoding", "quoted-printable") + b"\r\n" + body


def structure(rng: Random, depth: int = 0) -> bytes:
    plain = leaf(rng, "text/plain; charset=utf-8", f"{sentence(rng)}\r\n".encode())
    page = leaf(rng, "text/html; charset=utf-8", f"<p>{sentence(rng)}</p>\r\n".encode())
    image = leaf(rng, "image/png; name=a.png", b"\x89PNG", field("Content-ID", "<a@b>"))
    file = leaf(
        rng, "text/plain; name=n.txt", b"attached\r\n", b"Content-Disposition: attachment\r\n"
    )
    choice = multipart(rng, "alternative", [plain, page])
    related = multipart(rng, "related", [page, image])
    known = [plain, page, choice, related, multipart(rng, "mixed", [choice, file])]
    if depth < 3 and rng.random() < 0.6:
        kind = rng.choice(["mixed", "alternative", "related", "signed", "report"])
        parts = [structure(rng, depth + 1) for _ in range(rng.randint(1, 3))]
        return multipart(rng, kind, [*parts, rng.choice([image, file, plain])], rng.random() < 0.8)
    return rng.choice(known)


def named_body(rng: Random) -> bytes:
    page = leaf(rng, rng.choice(["text/html; name=body.html", "text/plain; name=b.txt"]), b"a\r\n")
    other = leaf(rng, "text/html; name=b.html", b"<p>b</p>\r\n")
    return rng.choice(
        [page, multipart(rng, "alternative", [page, other]), multipart(rng, "mixed", [page, other])]
    )


def flowed(rng: Random) -> bytes:
    pieces = [b"https://example.com/a \r\nb\r\n", b"> quoted \r\n> text\r\n", b" From here\r\n"]
    pieces += [b"one \r\ntwo \r\nthree\r\n", b"-- \r\nAnna\r\n", b"\r\n", b">> deep \r\n> less\r\n"]
    body = b"".join(rng.choice(pieces) for _ in range(rng.randint(1, 6)))
    kind = "text/plain; format=flowed" + rng.choice(["", "; delsp=yes", "; DelSp=no"])
    return field("Content-Type", kind) + b"\r\n" + body


def attached_message(rng: Random) -> bytes:
    inner = field("X-Odd", "a").replace(b": ", b":") + subject(rng)
    rest = field("Content-Disposition", "attachment; filename=a.eml")
    part = field("Content-Type", "message/rfc822") + rest + b"\r\n" + inner
    return multipart(rng, "mixed", [leaf(rng, "text/plain", b"see\r\n"), part])


def truncated(rng: Random) -> bytes:
    whole = multipart(rng, "mixed", [leaf(rng, "text/plain", b"see below\r\n"), structure(rng)])
    return whole[: rng.randint(1, len(whole))]


def mutated(rng: Random) -> bytes:
    pieces = [
        b"",
        b"\r\n",
        b"\n",
        b" ",
        b"\t",
        b";",
        b'"',
        b"(",
        b"=",
        b"=?",
        b"--",
        b":",
        b"\r\n ",
    ]
    content = rng.choice([structure, file_name, subject, field_spelling])(rng)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(content))
        content = content[:at] + rng.choice(pieces) + content[at + rng.randint(0, 2) :]
    return content


KINDS: tuple[Callable[[Random], bytes], ...] = (
    *(header_block, subject, charset, charset_of_header, file_name, field_spelling, base64),
    *(quoted_printable, structure, named_body, flowed, attached_message, truncated),
    mutated,
)


def ours(content: bytes) -> Reading:
    root = read(InMemory(content))
    sorted_ = bodies.of(root)
    return Reading(
        root.headers.get("Subject", ""),
        bodies.text_of(sorted_.shown, "text/plain"),
        bodies.text_of(sorted_.shown, "text/html"),
        [(part.name, part.type, part.content) for part in sorted_.attached],
    )


def theirs(found: dict[str, Any]) -> Reading | None:
    if "error" in found:
        return None
    files = [(one["name"], one["type"], b64decode(one["content"])) for one in found["files"]]
    return Reading(found["subject"], found["text"], found["html"], files)


def alike(reading: Reading) -> Reading:
    """Return a reading without the differences that have no meaning."""

    def plain(text: str) -> str:
        return "\n".join(text.split())

    files = [(name, kind, b" ".join(data.split())) for name, kind, data in reading.files]
    html = plain(reading.html.replace("<br/>", ""))  # mailparser's own, between two parts
    return Reading(plain(reading.subject), plain(reading.text), html, files)


def install(folder: Path) -> None:
    if not all((folder / "node_modules" / name).is_dir() for name in PACKAGES):
        subprocess.run(["npm", "init", "-y"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["npm", "install", "--silent", *PACKAGES], cwd=folder, check=True)
    (folder / "compare.mjs").write_text(PROGRAM)


def peers(folder: Path, messages: list[bytes]) -> list[list[Reading | None]]:
    told = subprocess.run(
        ["node", "compare.mjs"],
        cwd=folder,
        input="\n".join(b64encode(one).decode() for one in messages).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return [list(map(theirs, json.loads(line))) for line in told.stdout.splitlines()]


def compare(folder: Path, seed: int, count: int, shown: int, kinds: list[str]) -> None:
    rng = random.Random(seed)
    made = [
        (make.__name__, make(rng))
        for make in KINDS
        if not kinds or make.__name__ in kinds
        for _ in range(count)
    ]
    total: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for (kind, content), found in zip(
        made, peers(folder, [content for _, content in made]), strict=True
    ):
        total[kind] += 1
        own = alike(ours(content))
        first, second = (None if one is None else alike(one) for one in found)
        for name in Reading._fields:
            values = [getattr(one, name) if one else None for one in (first, second)]
            if values[0] == values[1] != getattr(own, name):
                alone[f"{kind} {name}"] += 1
                if alone[f"{kind} {name}"] <= shown:
                    print(f"{kind}: {content!r}\n  {name}: {getattr(own, name)!r}")
                    print(f"  peers: {values[0]!r}")
            elif getattr(own, name) not in values:
                alone[f"{kind} {name} (all three)"] += 1
                if alone[f"{kind} {name} (all three)"] <= shown:
                    print(f"{kind}: {content!r}\n  {name}: {getattr(own, name)!r}")
                    print(f"  {PACKAGES}: {values!r}")
    for name, number in (total + alone).items():
        print(f"{number:6} {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100, help="messages of each kind")
    parser.add_argument("--show", type=int, default=2, help="examples of each difference")
    parser.add_argument("--folder", type=Path, help="folder with the peers' packages")
    parser.add_argument("kinds", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        install(folder)
        compare(folder, given.seed, given.count, given.show, given.kinds)


if __name__ == "__main__":
    main()
