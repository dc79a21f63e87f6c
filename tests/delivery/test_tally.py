"""The counts of the spool that are kept in memory, beside a queue command that changes rows."""

from contextlib import closing
from pathlib import Path

import pytest

from aiosmtpd.delivery.backlog import Backlog, Selection
from aiosmtpd.delivery.ids import new_queue_id
from tests.delivery.spooling import MESSAGE, PATIENCE, due, opened, put, write_locked


@pytest.mark.parametrize("done", [0, 2], ids=["puts", "puts and ends"])
def test_counts_when_messages_come_during_a_look(tmp_path: Path, done: int) -> None:
    with opened(tmp_path) as spool:
        for _ in range(3):
            put(spool, new_queue_id()).result(PATIENCE)
        ending = due(spool)[:done]
        dropped = due(spool)[2].item.id
        with closing(Backlog(str(tmp_path))) as backlog:
            assert backlog.drop(Selection(queue_id=dropped)) == 1
        with write_locked(tmp_path):
            # One commit waits for the lock; all that is asked for meanwhile is in the next one.
            futures = [put(spool, new_queue_id()) for _ in range(6)]
            futures += [spool.done(job) for job in ending]
            looked = spool.changed()
        for future in futures:
            future.result(PATIENCE)
        assert looked.result(PATIENCE)
        found = spool.counts().result(PATIENCE)
        assert (found.messages, found.bytes) == (8 - done, (8 - done) * len(MESSAGE))
