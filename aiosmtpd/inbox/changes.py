"""Changes of the database: each function runs in a transaction of the writer."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attrs import evolve

from aiosmtpd.inbox import labels, wire
from aiosmtpd.inbox.database import INDEX_TABLE, MESSAGE_TABLES, OTHER_INDEXES
from aiosmtpd.inbox.keep import Keep, Oldest, superfluous
from aiosmtpd.inbox.packing import addressed, packed_attempt
from aiosmtpd.inbox.records import Attempt, Event
from aiosmtpd.inbox.rows import Description, complete
from aiosmtpd.inbox.search import Query, milliseconds
from aiosmtpd.inbox.writer import Change

MOST_EVENTS = 200
"""Deletions that are reported one by one."""

MOST_ATTEMPTS = 5000
"""Refused attempts that are kept."""

INDEXED_AT_ONCE = 10
"""Messages that are added to the index before other work is looked for."""

MANY = 500
"""Values in one statement."""

ROWS = 16
"""Messages that one statement inserts."""

JOINED = "from msg m join field f on f.n = m.n join txt x on x.n = m.n"
"""The tables that conditions are about."""

_TABLES = ("msg", "about", "field", "txt", "raw", "tag")


def slices(values: Iterable[str | int]) -> Iterator[list[str | int]]:
    """Yield the different values in lists for one statement each."""
    each = list(dict.fromkeys(values))
    for begin in range(0, len(each), MANY):
        yield each[begin : begin + MANY]


def marks(values: Sequence[object]) -> str:
    """Return question marks for so many values."""
    return ",".join("?" * len(values))


class Message(NamedTuple):
    """A message to insert; *content* is None if it is a file."""

    number: int
    envelope: str
    session: int
    found: Description
    content: bytes | None


def insert(
    connection: sqlite3.Connection,
    change: Change,
    messages: Sequence[Message],
    filters: Sequence[tuple[Query, Sequence[str]]],
) -> None:
    """Store messages."""
    columns = "sender", "recipient", "cc", "bcc", "reply_to", "subject", "message_id"
    rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in _TABLES[:-1]}
    for n, envelope, session, found, content in messages:
        created = milliseconds(found.created)
        counts = found.size, found.attachments, found.inlines
        rows["msg"].append((n, found.id, created, 0, *counts, session, content is None, ""))
        rows["about"].append((n, found.row, details(found)))
        rows["field"].append((n, *[found.fields.get(column, "") for column in columns]))
        rows["txt"].append((n, found.text))
        rows["raw"].append((n, envelope, content))
    for table, some in rows.items():
        _insert_rows(connection, table, some)
    for message in messages:
        _announce(connection, change, message, filters)


def _insert_rows(
    connection: sqlite3.Connection, table: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Insert rows, some by each statement: after each, the thread may have to wait for others."""
    values = f"({marks(rows[0])})"
    begin = 0
    while begin < len(rows):
        count = ROWS if begin + ROWS <= len(rows) else 1
        some = [value for row in rows[begin : begin + count] for value in row]
        connection.execute(f"insert into {table} values {','.join([values] * count)}", some)
        begin += count


def _announce(
    connection: sqlite3.Connection,
    change: Change,
    message: Message,
    filters: Sequence[tuple[Query, Sequence[str]]],
) -> None:
    """Give a message its tags, and count it."""
    n, found = message.number, message.found
    wanted = list(found.tags)
    for query, tags in filters:
        if has(connection, n, query):
            wanted += tags
    tags_json = ""
    if wanted:
        tags_json = wire.dump(_tag(connection, change, n, wanted))
        connection.execute("update msg set tags = ? where n = ?", (tags_json, n))
    change.accepted += 1
    change.total += 1
    change.unread += 1
    change.size += found.size
    change.accepted_size += found.size
    row = complete(found.row, False, tags_json)
    change.events.append(Event("new", row, addressed(message.envelope)))


def details(found: Description) -> str:
    """Return all else that was found in a message, as JSON."""
    return wire.dump(
        {
            "added": found.added.decode("utf-8", "replace"),
            "left_out": found.left_out,
            "notices": found.notices,
            "listed": found.listed,
        }
    )


def has(connection: sqlite3.Connection, n: int, query: Query) -> bool:
    """Return True if the message *n* matches a query; it needs no index."""
    terms, values = conditions(query)
    terms = ["m.n = ?", *terms]
    sql = f"select 1 {JOINED} where {' and '.join(terms)}"
    return connection.execute(sql, [n, *values]).fetchone() is not None


def conditions(query: Query) -> tuple[list[str], list[object]]:
    """Return a query as conditions that need no index of words, and their values."""
    terms = [term.sql for term in query.terms]
    values = [value for term in query.terms for value in term.values]
    terms += ["instr(x.t, ?) > 0"] * len(query.words) + ["instr(x.t, ?) = 0"] * len(query.unwanted)
    return terms, [*values, *query.words, *query.unwanted]


def duplicate(connection: sqlite3.Connection, found: Description) -> str:
    """Return the id of a message with the same Message-ID, ``""`` if there is none."""
    sql = "select id from field join msg using (n) where message_id = ? limit 1"
    known = connection.execute(sql, (found.fields.get("message_id", ""),)).fetchone()
    return str(known[0]) if known else ""


# Sessions and attempts.


def save_session(connection: sqlite3.Connection, number: int, log: bytes) -> None:
    """Store a session if it has a message or a refused attempt."""
    sql = (
        "insert or replace into session select ?, ? where"
        " exists (select 1 from msg where session = ?)"
        " or exists (select 1 from attempt where session = ?)"
    )
    connection.execute(sql, (number, log, number, number))


def add_attempt(connection: sqlite3.Connection, change: Change, attempt: Attempt) -> int:
    """Store a refused attempt, and remove the oldest if there are too many."""
    words, details = packed_attempt(attempt)
    at = milliseconds(attempt.at) if attempt.at else 0
    cursor = connection.execute(
        "insert into attempt (session, at, words, details) values (?, ?, ?, ?)",
        (attempt.session, at, words, details),
    )
    number = cursor.lastrowid or 0
    change.attempts += 1
    change.rejected += 1
    change.events.append(Event("rejected", evolve(attempt, number=number).json()))
    old = connection.execute(
        "delete from attempt where a <= ? returning session", (number - MOST_ATTEMPTS,)
    ).fetchall()
    change.attempts -= len(old)
    forget_sessions(connection, {session for (session,) in old})
    return number


def delete_attempts(connection: sqlite3.Connection, change: Change) -> int:
    """Delete all refused attempts; return their number."""
    sessions = connection.execute("delete from attempt returning session").fetchall()
    forget_sessions(connection, {session for (session,) in sessions})
    change.attempts -= len(sessions)
    change.events.append(Event("rejected", "null"))
    return len(sessions)


# Tags.


def _tag(connection: sqlite3.Connection, change: Change, n: int, tags: Iterable[str]) -> list[str]:
    """Give tags to a message that has none; return them with the spelling that they had."""
    spelt = []
    for tag in labels.unique(tags):
        name = tag.casefold()
        connection.execute("insert or ignore into label values (?, ?)", (name, tag))
        found = connection.execute("select spelt from label where name = ?", (name,)).fetchone()
        connection.execute("insert into tag values (?, ?)", (name, n))
        spelt.append(str(found[0]))
    change.tags.update(spelt)
    return labels.ordered(spelt)


def _untag(connection: sqlite3.Connection, change: Change, numbers: Sequence[object]) -> None:
    """Take all tags from messages, and forget the tags that no message has."""
    sql = (
        "select spelt, count(*) from tag join label using (name)"
        f" where n in ({marks(numbers)}) group by spelt"
    )
    change.tags.subtract(dict(connection.execute(sql, numbers).fetchall()))
    connection.execute(f"delete from tag where n in ({marks(numbers)})", numbers)


def _forget_labels(connection: sqlite3.Connection) -> None:
    connection.execute(
        "delete from label where not exists (select 1 from tag where tag.name = label.name)"
    )


def set_tags(
    connection: sqlite3.Connection, change: Change, ids: Collection[str], tags: Collection[str]
) -> int:
    """Replace the tags of messages; return the number of messages."""
    count = 0
    for some in slices(ids):
        sql = f"select n, id from msg where id in ({marks(some)})"
        for n, id in connection.execute(sql, some).fetchall():
            _untag(connection, change, [n])
            spelt = wire.dump(_tag(connection, change, n, tags))
            connection.execute(
                "update msg set tags = ? where n = ?", ("" if spelt == "[]" else spelt, n)
            )
            change.events.append(Event("update", f'{{"ID":{wire.dump(id)},"Tags":{spelt}}}'))
            count += 1
    _forget_labels(connection)
    return count


def rename_tag(connection: sqlite3.Connection, change: Change, old: str, new: str) -> None:
    """Rename a tag; raises LookupError and ValueError."""
    name, spelt = _label(connection, old)
    tag = labels.cleaned(new)
    if not tag:
        raise ValueError(f"{new!r:.120} has no character of a tag")
    to = tag.casefold()
    if to != name and connection.execute("select 1 from label where name = ?", (to,)).fetchone():
        raise ValueError(f"there is a tag {tag!r} already")
    if tag == spelt:
        return
    connection.execute("update label set name = ?, spelt = ? where name = ?", (to, tag, name))
    connection.execute("update tag set name = ? where name = ?", (to, name))
    count = _spell_again(connection, to)
    change.tags.update({tag: count})
    change.tags.subtract({spelt: count})
    change.events.append(Event("prune", "null"))


def delete_tag(connection: sqlite3.Connection, change: Change, name: str) -> None:
    """Take a tag from all messages; raises LookupError."""
    folded, spelt = _label(connection, name)
    numbers = connection.execute("select n from tag where name = ?", (folded,)).fetchall()
    connection.execute("delete from tag where name = ?", (folded,))
    connection.execute("delete from label where name = ?", (folded,))
    for (n,) in numbers:
        _write_tags(connection, n)
    change.tags.subtract({spelt: len(numbers)})
    change.events.append(Event("prune", "null"))


def _label(connection: sqlite3.Connection, text: str) -> tuple[str, str]:
    name = " ".join(text.split()).casefold()
    found = connection.execute("select name, spelt from label where name = ?", (name,)).fetchone()
    if found is None:
        raise LookupError(f"there is no tag {text!r:.120}")
    return str(found[0]), str(found[1])


def _spell_again(connection: sqlite3.Connection, name: str) -> int:
    numbers = connection.execute("select n from tag where name = ?", (name,)).fetchall()
    for (n,) in numbers:
        _write_tags(connection, n)
    return len(numbers)


def _write_tags(connection: sqlite3.Connection, n: int) -> None:
    sql = "select spelt from tag join label using (name) where n = ?"
    tags = labels.ordered(spelt for (spelt,) in connection.execute(sql, (n,)))
    connection.execute("update msg set tags = ? where n = ?", (wire.dump(tags) if tags else "", n))


# Read and unread.


def set_read(
    connection: sqlite3.Connection, change: Change, ids: Collection[str] | None, read: bool
) -> int:
    """Mark messages; return how many changed."""
    state, sign = int(read), -1 if read else 1
    if ids is None:
        cursor = connection.execute("update msg set read = ? where read = ?", (state, 1 - state))
        change.unread += sign * cursor.rowcount
        return cursor.rowcount
    changed: list[str] = []
    for some in slices(ids):
        sql = f"update msg set read = ? where read = ? and id in ({marks(some)}) returning id"
        changed += [str(id) for (id,) in connection.execute(sql, [state, 1 - state, *some])]
    change.unread += sign * len(changed)
    word = "true" if read else "false"
    change.events += [Event("update", f'{{"ID":{wire.dump(id)},"Read":{word}}}') for id in changed]
    return len(changed)


# Deletion.


def delete(
    connection: sqlite3.Connection, change: Change, ids: Collection[str], folder: Path
) -> int:
    """Delete messages; return their number."""
    deleted: list[str] = []
    for some in slices(ids):
        sql = f"select n from msg where id in ({marks(some)})"
        numbers = [n for (n,) in connection.execute(sql, some)]
        deleted += delete_numbers(connection, change, numbers, folder)
    if len(deleted) > MOST_EVENTS:
        change.events.append(Event("prune", "null"))
    else:
        change.events += [Event("delete", f'{{"ID":{wire.dump(id)}}}') for id in deleted]
    return len(deleted)


def delete_numbers(
    connection: sqlite3.Connection, change: Change, numbers: list[int], folder: Path
) -> list[str]:
    """Delete messages by their numbers, at most ``MANY``; return their ids."""
    if not numbers:
        return []
    which = f"where n in ({marks(numbers)})"
    found = connection.execute(f"select id, read, size, session from msg {which}", numbers)
    rows = found.fetchall()
    _remove_words(connection, numbers)
    _untag(connection, change, numbers)
    files = connection.execute(f"select id from msg {which} and large", numbers)
    change.unlinked += [folder / str(id) for (id,) in files]
    for table in _TABLES[:-1]:
        connection.execute(f"delete from {table} {which}", numbers)
    _forget_labels(connection)
    forget_sessions(connection, {session for _, _, _, session in rows})
    change.total -= len(rows)
    change.unread -= sum(1 for _, read, _, _ in rows if not read)
    change.size -= sum(size for _, _, size, _ in rows)
    return [str(id) for id, _, _, _ in rows]


def _remove_words(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    if state(connection, "indexed"):
        # The index is without a copy of the texts: it needs them to find its entries.
        connection.execute(
            "insert into word (word, rowid, t) select 'delete', n, t from txt"
            f" where n in ({marks(numbers)}) and n <= ?",
            [*numbers, state(connection, "indexed")],
        )


def forget_sessions(connection: sqlite3.Connection, sessions: Collection[int]) -> None:
    """Delete those of the sessions that have neither a message nor a refused attempt."""
    for some in slices(sessions):
        connection.execute(
            f"delete from session where s in ({marks(some)})"
            " and not exists (select 1 from msg where session = s)"
            " and not exists (select 1 from attempt where session = s)",
            some,
        )


def delete_all(connection: sqlite3.Connection, change: Change, folder: Path, *, index: bool) -> int:
    """Delete all messages, and their sessions; return their number.

    The tables are only set aside, which takes no time; :func:`drop_some` drops them later.
    """
    count = int(connection.execute("select count(*) from msg").fetchone()[0])
    files = connection.execute("select id from msg where large")
    change.unlinked += [folder / str(id) for (id,) in files]
    used = [int(name[3:].partition("_")[0]) for name in _set_aside(connection)]
    aside = f"old{max(used, default=0) + 1}_"
    for statement in OTHER_INDEXES:
        connection.execute(f"drop index {statement.split()[2]}")
    for table in _TABLES:
        connection.execute(f"alter table {table} rename to {aside}{table}")
    if index:
        connection.execute(f"alter table word rename to {aside}word")
    for statement in (*MESSAGE_TABLES, *OTHER_INDEXES):
        connection.execute(statement)
    if index:
        connection.execute(INDEX_TABLE)
    connection.execute("delete from label")
    connection.execute(
        "delete from session where not exists (select 1 from attempt where session = s)"
    )
    change.everything = True
    change.events.append(Event("truncate", "null"))
    return count


def prune(
    connection: sqlite3.Connection,
    change: Change,
    keep: Keep,
    folder: Path,
    total: int,
    size: int,
    now: float,
) -> int:
    """Remove the oldest messages that are over a limit, at most ``MANY``; return their number."""
    sql = "select n, size, created / 1000.0 from msg order by n limit ?"
    oldest = [Oldest(*one) for one in connection.execute(sql, (MANY,))]
    numbers, why = superfluous(keep, oldest, total=total, size=size, now=now)
    if not numbers:
        return 0
    delete_numbers(connection, change, numbers, folder)
    connection.execute(
        "insert into gone values (?, ?, ?) on conflict (why) do update"
        " set at = excluded.at, count = count + excluded.count",
        (why, round(now * 1000), len(numbers)),
    )
    change.pruned += len(numbers)
    change.events.append(Event("prune", "null"))
    return len(numbers)


# Work for later.


def state(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that the database keeps."""
    found = connection.execute("select value from state where name = ?", (name,)).fetchone()
    return int(found[0])


def set_state(connection: sqlite3.Connection, name: str, value: int) -> None:
    """Keep a number in the database."""
    connection.execute("update state set value = ? where name = ?", (value, name))


def index_some(connection: sqlite3.Connection, limit: int, stop: Callable[[], bool] = bool) -> int:
    """Add up to *limit* messages to the index of words, -1 for all; return how many.

    *stop* is asked now and then; if it returns True, the rest must wait.
    """
    since = state(connection, "indexed")
    sql = "select n from txt where n > ? order by n limit ?"
    numbers = [n for (n,) in connection.execute(sql, (since, limit))]
    count = 0
    while count < len(numbers) and not (count and stop()):
        some = numbers[count : count + INDEXED_AT_ONCE]
        connection.execute(
            "insert into word (rowid, t) select n, t from txt where n > ? and n <= ?",
            (since, some[-1]),
        )
        since = some[-1]
        count += len(some)
    if count:
        set_state(connection, "indexed", since)
    return count


def tag_counts(connection: sqlite3.Connection) -> Counter[str]:
    """Return all tags with the number of their messages."""
    sql = "select spelt, count(*) from tag join label using (name) group by spelt"
    return Counter(dict(connection.execute(sql).fetchall()))


def _set_aside(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the tables that :func:`delete_all` has set aside."""
    sql = "select name from sqlite_master where type = 'table' and name glob 'old[0-9]*_*'"
    return [str(name) for (name,) in connection.execute(sql)]


def drop_some(connection: sqlite3.Connection) -> bool:
    """Drop a part of the tables that were set aside; return False if there is no such table."""
    names = _set_aside(connection)
    for name in names:
        table = name.partition("_")[2]
        key = "id" if table == "word_data" else "n" if table in _TABLES[:-1] else None
        if key is None:
            continue
        # An index without its first records cannot be dropped.
        some = f"select {key} from {name} where {key} > {10 if key == 'id' else 0} limit {MANY}"
        if connection.execute(f"delete from {name} where {key} in ({some})").rowcount:
            return True
        connection.execute(f"drop table {name.removesuffix('_data')}")
        return True
    for name in names:
        connection.execute(f"drop table if exists {name}")
    return bool(names)
