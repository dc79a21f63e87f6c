"""Transcripts made from tables: paths and parameters, most of them in one line each."""

from collections.abc import Iterator, Sequence

from .notation import Transcript, read_text

SYNTAX = {"MAIL": "MAIL FROM: <address>", "RCPT": "RCPT TO: <address>"}
PREFIX = {"MAIL": "MAIL FROM:", "RCPT": "RCPT TO:", "VRFY": "VRFY "}
MALFORMED = "553 5.1.3 Error: malformed address"
EHLO = [
    "C: EHLO client.test",
    "S: 250-mx.test",
    "S: 250-SIZE 33554432",
    "S: 250-8BITMIME",
    "S: 250 HELP",
]

ACCEPTED = [
    # RFC 5321 4.1.2
    ("<a@b.test>", "a@b.test"),
    ("<A.B@B.Test>", "A.B@B.Test"),
    ("<a+x=y@b.test>", "a+x=y@b.test"),
    ("<!#$%&'*+-/=?^_`{|}~@b.test>", "!#$%&'*+-/=?^_`{|}~@b.test"),
    ("<a%b.test@c.test>", "a%b.test@c.test"),
    ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
    ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
    ("<a@[IPv6:::1]>", "a@[IPv6:::1]"),
    ("<postmaster>", "postmaster"),
    ('<"a b"@c.test>', '"a b"@c.test'),
    ('<"a\\\\"b"@c.test>', '"a\\"b"@c.test'),
    ('<""@c.test>', '""@c.test'),
    ("<a@1.2.test>", "a@1.2.test"),
    ("<a@b-c.test>", "a@b-c.test"),
    ("<a@localhost>", "a@localhost"),
    # A source route is read and forgotten (RFC 5321 appendix C).
    ("<@x.test:a@b.test>", "a@b.test"),
    ("<@x.test,@y.test:a@b.test>", "a@b.test"),
    # Leniences: blanks around, no brackets.
    (" <a@b.test>", "a@b.test"),
    ("   <a@b.test>   ", "a@b.test"),
    ("\\t<a@b.test>", "a@b.test"),
    ("< a@b.test>", "a@b.test"),
    ("<a@b.test >", "a@b.test"),
    ("a@b.test", "a@b.test"),
    (" a@b.test", "a@b.test"),
    ('"a b"@c.test', '"a b"@c.test'),
    ("postmaster", "postmaster"),
    # Quotes that are not needed go; the rest of a dotted mix moves into one pair.
    ('<"a"@b.test>', "a@b.test"),
    ('<"a".b@c.test>', "a.b@c.test"),
    ('<a."b c".d@e.test>', '"a.b c.d"@e.test'),
]
"""Texts after the colon, and the address that a hook gets."""

REFUSED = [
    "< >",
    "<@>",
    "<a@>",
    "<@b.test>",
    "<a@b.test.>",
    "<a@.b.test>",
    "<a@b..test>",
    "<a@b.test@c.test>",
    "<<a@b.test>>",
    "(c) <a@b.test>",
    "@x.test:a@b.test",
    '<a@"b.test">',
    "<a\\\\@b@c.test>",
    "[",
    "<[>",
    "]",
    "(",
    ")",
    "(()",
    ",",
    ";",
    ":",
]
"""Texts that get 553."""

REFUSED_BY_US = [
    "<a@b.test",
    "<a@[192.0.2.1>",
    '<"a@b.test>',
    '<a"b@c.test>',
    '"',
    "<a\\x00b@c.test>",
    "<a@b\\x00.test>",
    "<a\\x01b@c.test>",
    "<a\\x7fb@c.test>",
    "<a@b.test\\x1f>",
    "<a\\rb@c.test>",
    "<a(c)@b.test>",
    "<(c)a@b.test>",
    "a@b.test (c)",
    "<a@[300.0.2.1]>",
    "<a@[192.0.2]>",
    "<a@[IPv6:2001:db8::1::2]>",
    "<a@[IPv6:g::1]>",
    "<a@[somewhere]>",
    "<a@[]>",
]
"""Texts that get 553 from us, and another reply from 1.4.6.

The rule is docs/explain/threat-model, "strict paths".
"""

REFUSED_SOMEHOW = [
    "Foo <a@b.test>",
    '"Foo Bar" <a@b.test>',
    "<a@b.test><c@d.test>",
    "<a@b.test>,<c@d.test>",
    "a@b.test,c@d.test",
    "<a,b@c.test>",
    "<a;b@c.test>",
    "<a:b@c.test>",
    "<mailto:a@b.test>",
    "a@b.test>",
    "<a@b]>",
    '""',
]
"""Texts that must be refused, as a wrong address (553) or as wrong parameters (501)."""


STRICT = 'docs/explain/threat-model, "strict paths"'


def path_transcripts() -> Iterator[Transcript]:
    """Yield the dialogues of all path tables."""
    for verb in ("MAIL", "RCPT"):
        yield from read_text("\n".join(_accepted(verb)), f"paths/{verb}")
        refused = ((text, f"S: {MALFORMED}") for text in REFUSED)
        yield from _refusals(verb, "malformed", refused)
        refused = ((text, f"S: {MALFORMED}") for text in REFUSED_BY_US)
        yield from _refusals(verb, "malformed for us", refused, STRICT)
        refused = ((text, "S~ (501|553) .*") for text in REFUSED_SOMEHOW)
        yield from _refusals(verb, "no single path", refused)
    yield from read_text("\n".join(_verified()), "paths/VRFY")
    spoken = ((text, f"S: 502 Could not VRFY {text}") for text in REFUSED if "\\" not in text)
    yield from _refusals("VRFY", "malformed", spoken)


def _accepted(verb: str) -> Iterator[str]:
    yield from ("== accepted", "handler: Echo", *EHLO)
    for text, address in ACCEPTED:
        if verb == "MAIL":
            yield from (f"C: MAIL FROM:{text}", f"S: 250 from {address!r} [] False")
        else:
            yield from ("C: MAIL FROM:<>", "S: 250 from '<>' [] False")
            yield from (f"C: RCPT TO:{text}", f"S: 250 to {address!r} []")
        yield from ("C: RSET", "S: 250 reset None []")


def _verified() -> Iterator[str]:
    yield from ("== accepted", "handler: Echo")
    for text, address in ACCEPTED:
        yield from (f"C: VRFY {text}", f"S: 252 vrfy {address!r}")


def _refusals(
    verb: str, title: str, answers: Iterator[tuple[str, str]], differs: str = ""
) -> Iterator[Transcript]:
    cases = list(answers)
    # Few on each connection: a client that errs too often is sent away.
    for first in range(0, len(cases), 8):
        lines = [f"== {title}, {first // 8 + 1}", *EHLO]
        if differs:
            lines.insert(1, f"differs: {differs}")
        for text, answer in cases[first : first + 8]:
            if verb == "RCPT":
                lines += ["C: RSET", "S: 250 OK", "C: MAIL FROM:<a@b.test>", "S: 250 OK"]
            lines += [f"C: {PREFIX[verb]}{text}", answer]
        if verb == "MAIL":
            lines += ["C: RCPT TO:<c@d.test>", "S: 503 Error: need MAIL command"]
        elif verb == "RCPT":
            lines += ["C: DATA", "S: 503 Error: need RCPT command"]
        yield from read_text("\n".join(lines), f"paths/{verb}")


OTHERS = {
    "MAIL": "555 MAIL FROM parameters not recognized or not implemented",
    "RCPT": "555 RCPT TO parameters not recognized or not implemented",
}
SYNTAX_501 = {verb: f"501 Syntax: {text} [SP <mail-parameters>]" for verb, text in SYNTAX.items()}
TOO_BIG = "552 Error: message size exceeds fixed maximum message size"
BODY = "501 Error: BODY can only be one of 7BIT, 8BITMIME"
NO_VALUE = "501 Error: SMTPUTF8 takes no arguments"
DISABLED = "501 Error: SMTPUTF8 disabled"

MAIL_ACCEPTED = [
    ("SIZE=1", "['SIZE=1']"),
    ("size=1", "['SIZE=1']"),
    ("SIZE=0", "['SIZE=0']"),
    ("SIZE=0001", "['SIZE=0001']"),
    ("SIZE=33554432", "['SIZE=33554432']"),
    ("BODY=7BIT", "['BODY=7BIT']"),
    ("BODY=8BITMIME", "['BODY=8BITMIME']"),
    ("body=8bitmime", "['BODY=8BITMIME']"),
    (" SIZE=1   BODY=7bit  ", "['SIZE=1', 'BODY=7BIT']"),
    ("BODY=7BIT SIZE=2", "['BODY=7BIT', 'SIZE=2']"),
]
"""Parameters of MAIL, and the options that a hook gets."""

MAIL_REFUSED = [
    ("SIZE", SYNTAX_501["MAIL"]),
    ("SIZE=", SYNTAX_501["MAIL"]),
    ("SIZE=x", SYNTAX_501["MAIL"]),
    ("SIZE=-1", SYNTAX_501["MAIL"]),
    ("SIZE=+1", SYNTAX_501["MAIL"]),
    ("SIZE=1.0", SYNTAX_501["MAIL"]),
    ("SIZE= 1", SYNTAX_501["MAIL"]),
    ("SIZE =1", SYNTAX_501["MAIL"]),
    ("SIZE=1,BODY=7BIT", SYNTAX_501["MAIL"]),
    ("SIZE=33554433", TOO_BIG),
    ("SIZE=99999999999999999999", TOO_BIG),
    ("BODY", BODY),
    ("BODY=X", BODY),
    ("BODY=BINARYMIME", BODY),
    ("BODY=", SYNTAX_501["MAIL"]),
    ("SMTPUTF8", DISABLED),
    ("smtputf8", DISABLED),
    ("SMTPUTF8=1", NO_VALUE),
    ("SMTPUTF8=", SYNTAX_501["MAIL"]),
    ("FOO", OTHERS["MAIL"]),
    ("FOO=bar", OTHERS["MAIL"]),
    ("FOO=", SYNTAX_501["MAIL"]),
    ("=", SYNTAX_501["MAIL"]),
    ("=x", SYNTAX_501["MAIL"]),
    ("<x>", SYNTAX_501["MAIL"]),
    ('"a"=b', SYNTAX_501["MAIL"]),
    ("RET=FULL", OTHERS["MAIL"]),
    ("ENVID=x", OTHERS["MAIL"]),
    ("SIZE=1 FOO", OTHERS["MAIL"]),
    ("FOO SIZE=1", OTHERS["MAIL"]),
    # The first failing check wins, not the first parameter.
    ("FOO= BODY=X", SYNTAX_501["MAIL"]),
    ("FOO BODY=X", BODY),
    ("SIZE=x BODY=X", BODY),
    ("SIZE=99999999999 BODY=X", BODY),
    ("SMTPUTF8=1 BODY=X", BODY),
    ("SIZE=99999999999 SMTPUTF8", DISABLED),
    ("FOO SIZE=x", SYNTAX_501["MAIL"]),
    ("FOO SIZE=99999999999", TOO_BIG),
    ("FOO SMTPUTF8", DISABLED),
]
"""Parameters of MAIL and the refusal."""

RCPT_REFUSED = [
    ("FOO", OTHERS["RCPT"]),
    ("FOO=bar", OTHERS["RCPT"]),
    ("SIZE=1", OTHERS["RCPT"]),
    ("BODY=X", OTHERS["RCPT"]),
    ("NOTIFY=NEVER", OTHERS["RCPT"]),
    ("FOO=", SYNTAX_501["RCPT"]),
    ("=", SYNTAX_501["RCPT"]),
    ("FOO =", SYNTAX_501["RCPT"]),
    ("FOO BAR=", SYNTAX_501["RCPT"]),
    ("<x>", SYNTAX_501["RCPT"]),
]
"""Parameters of RCPT and the refusal."""


def parameter_transcripts() -> Iterator[Transcript]:
    """Yield the dialogues of all parameter tables."""
    lines = ["== accepted", "handler: Echo", *EHLO]
    for text, options in MAIL_ACCEPTED:
        lines += [f"C: MAIL FROM:<a@b.test> {text}", f"S: 250 from 'a@b.test' {options} False"]
        lines += ["C: RSET", "S: 250 reset None []"]
    yield from read_text("\n".join(lines), "parameters/MAIL")
    yield from _parameters_refused("MAIL", MAIL_REFUSED)
    yield from _parameters_refused("RCPT", RCPT_REFUSED)


def _parameters_refused(verb: str, table: Sequence[tuple[str, str]]) -> Iterator[Transcript]:
    for first in range(0, len(table), 8):
        lines = [f"== refused, {first // 8 + 1}", *EHLO]
        if verb == "RCPT":
            lines += ["C: MAIL FROM:<a@b.test>", "S: 250 OK"]
        for text, answer in table[first : first + 8]:
            lines += [f"C: {PREFIX[verb]}<a@b.test> {text}", f"S: {answer}"]
        yield from read_text("\n".join(lines), f"parameters/{verb}")
