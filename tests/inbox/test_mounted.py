"""The inbox in an application of FastAPI, as the documentation shows it."""

import asyncio
import importlib
import smtplib
import sys
from pathlib import Path

import httpx
import pytest

import aiosmtpd.inbox
from aiosmtpd.inbox import Store, WebOptions, inbox_app
from tests.client import PATIENCE
from tests.inbox.support import add
from tests.net.support import free_port

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the documentation is not here")
async def test_the_example_catches_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    port = free_port()
    monkeypatch.setenv("MAIL_PLACE", f"127.0.0.1:{port}")
    monkeypatch.syspath_prepend(EXAMPLES)
    sys.modules.pop("mail_page", None)
    app = importlib.import_module("mail_page").app

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client.sendmail("a@b.test", ["c@d.test"], "Subject: Hi\n\n")

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        await asyncio.to_thread(send)
        answer = await client.get("/_mail/api/wait?to=c@d.test")
        [row] = answer.json()["messages"]
        answer = await client.get(f"/_mail/api/message/{row['ID']}/copy?as=wait")
        assert answer.text.startswith("http://localhost/_mail/api/wait?")
        answer = await client.get("/_mail/")
        assert answer.status_code == 200
        assert '<base href="/_mail/"' in answer.text
        answer = await client.get("/_mail/api/faults")
        assert answer.status_code == 404


async def test_the_options_of_the_application(store: Store) -> None:
    add(store)
    app = inbox_app(store, WebOptions(users={"me": "secret"}))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/api/settings")).status_code == 401
        answer = await client.get("/api/settings", auth=("me", "secret"))
        assert answer.json()["retention"]["keep"] == "5000,1G"


def test_the_names_of_the_room() -> None:
    names = {"inbox_app", "Intake", "Keep", "parse_keep", "Store", "WebOptions"}
    assert names <= set(dir(aiosmtpd.inbox))
    for name in names:
        assert getattr(aiosmtpd.inbox, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'outbox'"):
        _ = aiosmtpd.inbox.outbox  # type: ignore[attr-defined]
