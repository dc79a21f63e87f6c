"""The query language: each operator, any text, and the same results with and without an index."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd.inbox.search import WrongFilter, check, folded, parse, parse_date
from aiosmtpd.inbox.store import Store
from tests.inbox.support import add, mail, row, subjects, without_index
from tests.rows import each_row

BERLIN = timezone(timedelta(hours=1))
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture(scope="module", params=["index", "no index"])
def corpus(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store with five messages; their subjects are named like their tests."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "no index":
            without_index(patched)
        store = Store()
        store.open()
    add(
        store, mail("Schöne GRÜSSE aus Köln", subject="one", sender="Grüße Shop <shop@example.org>")
    )
    add(
        store,
        mail("<script> 100% a_b", subject="two", to='"Bob, the builder" <bob+vip@example.org>'),
    )
    add(
        store,
        mail("x" * 3000, subject="three", more="Cc: carol@example.net\r\nMessage-ID: <m-3@x>\r\n"),
        recipients=["bob@example.org", "carol@example.net", "hidden@example.org"],
        created=NOON,
    )
    attachment = (
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
        "Reply-To: reply@example.com\r\n"
    )
    text = (
        "--b\r\nContent-Type: text/html\r\n\r\n"
        '<p>read <a href="https://example.com/reset?t=1">this</a></p>\r\n'
        '--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename="r.pdf"'
        "\r\n\r\n%PDF\r\n--b--\r\n"
    )
    add(store, mail(text, subject="four", more=attachment))
    five = add(store, mail("five", subject="five", sender="news@example.org"))
    assert store.set_read([five], True).result(30) == 1
    yield store
    store.close()


@each_row(
    ("query", "expected"),
    [
        ("", "five four one three two"),
        ("grüße", "one"),
        ("GRÜSSE köln", "one"),
        ('"aus köln"', "one"),
        ('"köln aus"', ""),
        ("öln", "one"),
        ("kö", "one"),
        ("-kö", "five four three two"),
        ("-köln", "five four three two"),
        ("!köln", "five four three two"),
        ('"-köln"', "five four three two"),
        ("script -köln", "two"),
        ('script -köln -"100%"', ""),
        ("<script>", "two"),
        ("%", "two"),
        ("_", "two"),
        ("100%", "two"),
        ("()", "five four one three two"),
        ("-", ""),
        ('"bob builder"', ""),
        ('"bob the builder"', "two"),
        ('to:"bob the builder"', "two"),
        ('to:"Bob, the builder"', "two"),
        ("from:shop", "one"),
        ("from:GRÜSSE", "one"),
        ("FROM:Shop", "one"),
        ("-from:ann", "five one"),
        ("to:bob", "five four one three two"),
        ("to:name", ""),
        ("to:", "five four one three two"),
        ('to:"bob" from:news', "five"),
        ('"from:news"', "five"),
        ("cc:carol", "three"),
        ("bcc:hidden@", "three"),
        ("bcc:carol", ""),
        ("reply-to:reply", "four"),
        ("addressed:hidden@example.org", "three"),
        ("addressed:reply", "four"),
        ("subject:FIVE", "five"),
        ("subject:fiv", "five"),
        ("message-id:m-3@", "three"),
        ("message-id:<M-3@x>", "three"),
        ("tag:VIP", "two"),
        ("tag:vi", ""),
        ("!tag:vip", "five four one three"),
        ("is:read", "five"),
        ("!is:unread", "five"),
        ("is:tagged", "two"),
        ("is:other", ""),
        ("has:attachment", "four"),
        ("has:attachments", "four"),
        ("-has:attachment", "five one three two"),
        ("has:inline", ""),
        ("r.pdf", "four"),
        ("https://example.com/reset?t=1", "four"),
        ("larger:3k", "three"),
        ("larger:2.9KB", "three"),
        ('larger:"3 kb"', "three"),
        ("smaller:3kb", "five four one two"),
        ("-larger:3kb", "five four one two"),
        ("larger:3000", "three"),
        ("larger:0", ""),
        ("larger:x", ""),
        ("larger:", "five four one three two"),
        ("after:2026-11-28T12:00:00Z before:2026-11-28T12:00:00Z", "three"),
        ("-after:2026-11-28T12:00:00Z -before:2026-11-28T12:00:00Z", "three"),
        ("before:1999", ""),
        ("after:yesterday", "five four one three two"),
        ('"unclosed five', ""),
        ('fi"ve', "five"),
    ],
)
def test_queries(corpus: Store, query: str, expected: str) -> None:
    assert " ".join(subjects(corpus, query)) == expected


def test_the_zone_of_a_query_counts_for_dates(corpus: Store) -> None:
    query = 'before:"2026-11-28 12:30" after:"2026-11-28 11:30"'
    assert corpus.search(query, zone=UTC).matches == 1
    assert corpus.search(query, zone=BERLIN).matches == 0


@each_row(
    ("text", "expected"),
    [
        ("2026", (2026, 1, 1)),
        ("2026-11", (2026, 11, 1)),
        ("2026-11-28", (2026, 11, 28)),
        ("2026/11/28", (2026, 11, 28)),
        ("2026-11-28 07:00", (2026, 11, 28, 7)),
        ("2026-11-28T07:00:30", (2026, 11, 28, 7, 0, 30)),
        ("2026-11-28T07:00:30.5Z", (2026, 11, 28, 8, 0, 30, 500000)),
        ("2026-11-28T07:00:00+02:00", (2026, 11, 28, 6)),
        ("11/28/2026", (2026, 11, 28)),
        ("28/11/2026", (2026, 11, 28)),
        ("Nov 28 2026", (2026, 11, 28)),
        ("November 28, 2026", (2026, 11, 28)),
        ("28 Nov 2026", (2026, 11, 28)),
        ("1795849200", (2026, 11, 28, 8)),
        ("1795849200500", (2026, 11, 28, 8, 0, 0, 500000)),
    ],
)
def test_dates(text: str, expected: tuple[int, int, int]) -> None:
    assert parse_date(text, BERLIN) == datetime(*expected, tzinfo=BERLIN)


@pytest.mark.parametrize("text", ["", "yesterday", "99/99/2026", "Foo 28 2026", "0000", "9" * 30])
def test_texts_that_are_not_dates(text: str) -> None:
    assert parse_date(text) is None


def test_a_date_without_a_zone_is_local() -> None:
    assert parse_date("2026-11-28") == datetime(2026, 11, 28).astimezone()


@given(st.text())
@settings(max_examples=300)
def test_any_text_is_a_query(text: str) -> None:
    parse(text, BERLIN)
    parse_date(text)


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert folded(folded(text)) == folded(text)


ALPHABET = st.sampled_from([*"abAB ßſİ%_\"'-!:*()<\x00\ud800é日", "from:", "to:", "is:read "])
TEXTS = st.lists(ALPHABET, max_size=12).map("".join)


@given(texts=st.lists(TEXTS, min_size=1, max_size=5), queries=st.lists(TEXTS, max_size=8))
@settings(max_examples=25)
def test_the_index_changes_no_result(texts: list[str], queries: list[str]) -> None:
    with Store() as indexed, pytest.MonkeyPatch.context() as patched:
        without_index(patched)
        with Store() as plain:
            for text in texts:
                body = text.encode("utf-8", "replace").decode().replace("\x00", "")
                for store in indexed, plain:
                    add(store, mail(body, subject=body, more="Content-Type: text/plain\r\n"))
            for query in [*queries, *texts]:
                assert subjects(indexed, query) == subjects(plain, query)
                found = {id for id in indexed.find("") if indexed.matches(id, query)}
                assert found == set(indexed.find(query))


@given(word=st.text("abcß日", min_size=1, max_size=5), text=st.text("abcß日 \n,", max_size=20))
@settings(max_examples=60)
def test_words_are_found_as_parts_of_the_text(word: str, text: str) -> None:
    with Store() as store:
        id = add(store, mail(text, sender="x@y", to="z@y", subject="-"), sender="", recipients=[])
        assert (store.find(word) == [id]) is (folded(word) in folded(f"x@y - z@y {text}"))


def test_the_time_in_a_row_finds_its_message(store: Store) -> None:
    id = add(store, created=NOON + timedelta(microseconds=7_600))
    created = row(store, id)["Created"]
    assert created == "2026-11-28T12:00:00.007Z"
    assert store.find(f'before:"{created}" after:"{created}"') == [id]


# Queries that are written once and used unseen.


@each_row(
    ("query", "error", "hint"),
    [
        ("form:ann", "there is no filter form:", "did you mean from:? there are from:, to:, "),
        ("x -!tags:a", "there is no filter tags:", "did you mean tag:? there are from:, "),
        ("zzz:a", "there is no filter zzz:", "there are from:, to:, cc:, bcc:, reply-to:, "),
        ("zzz:a", "there is no filter zzz:", '; text with a colon needs quotation marks: "a:b"'),
        ("IS:unred", "there is no filter is:unred", "did you mean is:unread? there are is:read, "),
        ("has:file", "there is no filter has:file", "there are has:attachment, "),
        ("is:", "there is no filter is:", "there are is:read, is:unread, is:tagged"),
        (
            "is:rejected",
            "there is no filter is:rejected",
            "there are is:read, is:unread, is:tagged",
        ),
        ("before:yesterday", "'yesterday' is not a date", "write before:2026-11-28"),
        ('-after:"32 Nov 2026"', "'32 Nov 2026' is not a date", "write after:2026-11-28"),
        ("larger:huge", "'huge' is not a size", "write larger:500k"),
        ("smaller:", "smaller: has no value", "write smaller:500k"),
        ('to:""', "to: has no value", "write to:TEXT"),
        ("to:<>", "to: has no value", "write to:TEXT"),
    ],
)
def test_a_wrong_filter_is_named(query: str, error: str, hint: str) -> None:
    with pytest.raises(WrongFilter) as caught:
        check(query)
    assert str(caught.value) == error
    assert hint in caught.value.hint


@each_row(
    "query",
    [
        *("", "hello", '"foo:bar"', "https://shop.test/a", "12:30", ":x", "-", "a=b", '-"a:b"'),
        *("from:ann -To:bob cc:c bcc:d reply-to:e addressed:f subject:g message-id:h tag:i",),
        *(
            "is:read !is:unread is:Tagged has:attachments has:inline",
            "before:2026 after:1764288000",
        ),
        *('larger:1.5k smaller:"2 MB"', 'before:"Nov 28 2026"', 'subject:"a b"', "is:own"),
    ],
)
def test_right_filters_and_text(query: str) -> None:
    check(query, ["is:own"])
