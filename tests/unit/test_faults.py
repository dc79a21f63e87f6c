"""Faults as values: how they are written, what they match, and how often they strike."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd.observers.fault import STAGES
from aiosmtpd.smtp import SMTP
from aiosmtpd.testing.faults import Fault, Faults, faulty, parse_fault
from tests.rows import each_row

KNOWN = {
    "client": ["client"],
    "sender": ["client", "sender"],
    "recipient": ["client", "sender", "recipient"],
}

PIECES = """
rcpt mail connect starttls : = from= to= client= *@a.test / [ [[a] /a( /x{99999999999}/
450 550 5.1.1 no say delay 1.5 drip drop after truncate tls-failure - é
x2 every 3 30% seed over 9/min always x0 0 999999999999
"""

pieces = st.sampled_from([*PIECES.split(), ": ", " ", "\n", "\t", "\x00", "\ud800"])


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(pieces).map("".join), st.lists(pieces).map(" ".join)))
def test_any_text_is_a_fault_or_a_value_error_of_one_line(text: str) -> None:
    try:
        fault = parse_fault(text)
    except ValueError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 400
    else:
        assert parse_fault(str(fault)) == fault


numbers = st.integers(1, 999_999_999)
words = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1).filter(str.isprintable)
effects = st.one_of(
    st.sampled_from(
        ["450 4.2.1 busy", "250", "drop", "drop after", "drip", "truncate", "truncate 0"]
    ),
    st.sampled_from(["delay 1.5", "drip 0.01", "say 250-", "550 no x2", "say a 5%", "450 always"]),
    st.lists(words, min_size=1).map(lambda some: "say " + " ".join(some)),
    st.lists(words).map(lambda some: " ".join(["554", *some])),
)
patterns = st.one_of(
    st.sampled_from(
        ["*@slow.test", "<>", "/^a.*b$/", "from=x", "to=", "=", "a:b", "[2001:db8::*", "ß"]
    ),
    words.filter(lambda word: not word.endswith(":") and not word.startswith("/")),
)
often = st.one_of(
    st.just({}),
    st.builds(lambda number: {"times": number}, numbers),
    st.builds(lambda number: {"every": number}, numbers),
    st.builds(lambda number: {"per_minute": number}, numbers),
    st.builds(lambda share, seed: {"percent": share, "seed": seed}, st.integers(1, 100), numbers),
)


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    stage = draw(st.sampled_from(sorted(STAGES)))
    given_patterns: dict[str, Any] = {
        name: draw(patterns) for name in KNOWN[STAGES[stage]] if draw(st.booleans())
    }
    effect = draw(effects | st.just("tls-failure") if stage == "starttls" else effects)
    return Fault(stage, effect, **given_patterns, **draw(often))


@settings(deadline=None)
@given(faults())
def test_the_text_of_a_fault_is_parsed_to_that_fault(fault: Fault) -> None:
    assert parse_fault(str(fault)) == fault


@each_row(
    ("text", "fault"),
    [
        (
            "rcpt *@slow.test: 450 4.2.1 busy x2",
            Fault("rcpt", "450 4.2.1 busy", recipient="*@slow.test", times=2),
        ),
        (
            "  mail   <>:  550 no   bounces  every 3 ",
            Fault("mail", "550 no bounces", sender="<>", every=3),
        ),
        ("connect ::1: drop", Fault("connect", "drop", client="::1")),
        (
            "end-of-data from=/^a/ to=b@* client=10.*: delay 2.5 30% seed 7",
            Fault(
                "end-of-data",
                "delay 2.5",
                sender="/^a/",
                recipient="b@*",
                client="10.*",
                percent=30,
                seed=7,
            ),
        ),
        ("auth: 454 4.7.0 later over 10/min", Fault("auth", "454 4.7.0 later", per_minute=10)),
        ("connect: say SSH-2.0-x always", Fault("connect", "say SSH-2.0-x")),
        ("quit: say x2 always", Fault("quit", "say x2")),
        ("starttls: tls-failure", Fault("starttls", "tls-failure")),
        ("rcpt a=b@c: drop", Fault("rcpt", "drop", recipient="a=b@c")),
        ("data: 451 over 9/min and seed 5", Fault("data", "451 over 9/min and seed 5")),
    ],
)
def test_the_text_of_a_fault(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@each_row(
    ("text", "says"),
    [
        ("", "'' is not a fault: write 'STAGE [PATTERN]: EFFECT [TIMES]'"),
        ("rcpt 450 busy", "is not a fault"),
        ("rset: 450 busy", "unknown stage 'rset': write one of connect, ehlo,"),
        ("rcpt:", "unknown effect '': write a reply (450 4.2.1 busy), say TEXT"),
        ("rcpt: x2", "unknown effect ''"),
        ("rcpt: 150 odd", "unknown effect '150 odd'"),
        ("rcpt: say", "unknown effect 'say'"),
        ("rcpt: delay", "unknown effect 'delay'"),
        ("rcpt: delay -1", "unknown effect 'delay -1'"),
        ("rcpt: drop later", "unknown effect 'drop later'"),
        ("rcpt: truncate half", "unknown effect 'truncate half'"),
        ("rcpt: 450 busy x0", "times is to be a number from 1 to 999999999, not 0"),
        ("rcpt: drop 101%", "percent is to be a number from 1 to 100, not 101"),
        ("rcpt a b: drop", "two patterns for the recipient: a and b"),
        ("mail to=a: drop", "the recipient is not known at mail"),
        ("connect from=a: drop", "the sender is not known at connect"),
        ("rcpt /(/: drop", "the pattern '/(/' is not a regular expression: missing )"),
        ("rcpt /a{99999999999}/: drop", "is not a regular expression"),
        ("rcpt a:: drop", "must not end with a colon: write [:]"),
        ("rcpt to=: drop", "the pattern '' is to be one printable word"),
        ("rcpt " + "a" * 501 + ": drop", "has more than 500 characters"),
        ("mail: tls-failure", "tls-failure is an effect of starttls, not of mail"),
        ("rcpt: 450 two\nlines", "is to be one line of printable characters"),
    ],
)
def test_a_wrong_text_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_fault(text)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"times": 1, "every": 2}, "one of times, every, percent and per_minute"),
        ({"seed": 1}, "a seed is for a fault with percent"),
        ({"percent": 5, "seed": -1}, "seed is to be a number from 0"),
        ({"recipient": "two words"}, "one printable word"),
    ],
)
def test_wrong_keywords_of_a_fault_are_refused(keywords: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Fault("rcpt", "drop", **keywords)


def test_an_unknown_stage_is_refused_in_code() -> None:
    with pytest.raises(ValueError, match="unknown stage 'never': write one of connect"):
        Fault("never", "drop")


def matches(fault: Fault, **event: Any) -> bool:
    usual = {"sender": "a@b.test", "recipients": ["c@d.test", "e@f.test"], "client": "127.0.0.1"}
    return fault.matches("data", **{**usual, **event})


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({}, True),
        ({"recipient": "e@*"}, True),
        ({"recipient": "E@F.TEST"}, True),
        ({"recipient": "@f.test"}, False),
        ({"recipient": "/@F\\.test$/"}, True),
        ({"sender": "a@b.test", "recipient": "x@*"}, False),
        ({"client": "127.*"}, True),
        ({"client": "10.*"}, False),
    ],
)
def test_patterns(patterns: Any, expected: bool) -> None:
    assert matches(Fault("data", "drop", **patterns)) is expected


def test_a_fault_has_one_stage_and_may_match_the_null_sender() -> None:
    assert not matches(Fault("rcpt", "drop"))
    assert matches(Fault("data", "drop", sender="<>"), sender="<>")
    assert not matches(Fault("data", "drop", sender="<>"), sender=None)


def strikes(faults: Faults, count: int) -> list[bool]:
    return [
        bool(faults.struck("quit", sender=None, recipients=[], client="")) for _ in range(count)
    ]


def test_the_first_times_and_every_nth_time() -> None:
    assert strikes(Faults(["quit: drop x2"]), 4) == [True, True, False, False]
    assert strikes(Faults(["quit: drop every 3"]), 6) == [False, False, True] * 2
    assert strikes(Faults(["quit: drop"]), 3) == [True] * 3


def test_a_percentage_depends_on_its_seed_alone() -> None:
    random = Random(7)
    expected = [random.random() < 0.3 for _ in range(200)]
    assert strikes(Faults(["quit: drop 30% seed 7"]), 200) == expected
    assert strikes(Faults(["quit: drop 30%"]), 200) != expected
    assert strikes(Faults(["quit: drop 100%"]), 20) == [True] * 20


def test_a_rate_strikes_the_events_over_it_in_a_minute() -> None:
    now = 1000.0
    faults = Faults(["quit: drop over 2/min"], clock=lambda: now)
    assert strikes(faults, 4) == [False, False, True, True]
    now += 59.9
    assert strikes(faults, 1) == [True]
    now += 0.1
    assert strikes(faults, 3) == [False, False, True]


def test_the_first_fault_of_a_kind_strikes_and_later_ones_wait() -> None:
    faults = Faults(["quit: 450 a x1", "quit: 451 b x1", "quit: delay 1", "quit: delay 2"])
    events = [faults.struck("quit", sender=None, recipients=[], client="") for _ in range(3)]
    assert [event.get("reply") for event in events] == ["450 a", "451 b", None]
    assert [event["delay"] for event in events] == [1.0, 1.0, 1.0]


def test_faults_may_change_while_they_are_in_force() -> None:
    faults = Faults()
    assert list(faults) == []
    first = faults.add("quit: drop x1")
    second = faults.add(Fault("rcpt", "drop"))
    assert list(faults) == [first, second] == [parse_fault("quit: drop x1"), second]
    assert strikes(faults, 2) == [True, False]
    faults.clear()
    faults.add(first)
    assert strikes(faults, 2) == [True, False]


def test_faulty_names_its_class_and_refuses_a_wrong_text() -> None:
    made = faulty(SMTP, ["quit: drop"])
    assert issubclass(made, SMTP)
    assert made.__name__ == "FaultySMTP"
    with pytest.raises(ValueError, match="unknown stage"):
        faulty(SMTP, ["never: drop"])


def test_each_fault_counts_what_it_meets() -> None:
    faults = Faults(["quit: drop every 2", "rcpt: drop"])
    strikes(faults, 5)
    first, second = faults.counts()
    assert (first.number, str(first.fault), first.met, first.struck) == (
        1,
        "quit: drop every 2",
        5,
        2,
    )
    assert (second.number, second.met, second.struck, second.mark) == (2, 0, 0, "")


def test_one_fault_is_removed_by_its_number() -> None:
    faults = Faults(["quit: drop", "quit: drop"])
    assert faults.remove(1)
    assert not faults.remove(1)
    faults.add("quit: drop")
    assert [one.number for one in faults.counts()] == [2, 3]


def test_faults_with_a_mark_are_replaced() -> None:
    faults = Faults(["quit: drop"])
    faults.add("mail: drop", mark="chaos")
    faults.replace(["rcpt: drop", Fault("data", "drop")], mark="chaos")
    kept = [(one.fault.stage, one.mark) for one in faults.counts()]
    assert kept == [("quit", ""), ("rcpt", "chaos"), ("data", "chaos")]
    with pytest.raises(ValueError, match="unknown stage"):
        faults.replace(["mail: drop", "never: drop"])
    assert len(faults.counts()) == 3
    faults.clear(mark="chaos")
    assert [one.fault.stage for one in faults.counts()] == ["quit"]
    faults.replace([])
    assert faults.counts() == []
