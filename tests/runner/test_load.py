"""Files become configurations; wrong ones give one line for each fault."""

from datetime import date
from pathlib import Path

import pytest

from aiosmtpd.runner.config import Config, Place
from aiosmtpd.runner.faults import WrongConfiguration
from aiosmtpd.runner.load import Loaded, load, load_values
from tests.runner.wrong import GOOD, ROUTE, WRONG


def loaded(folder: Path, text: str, **environ: str) -> Loaded:
    (folder / "aiosmtpd.toml").write_text(text, encoding="utf-8")
    return load(folder / "aiosmtpd.toml", environ)


def faults(folder: Path, text: str, **environ: str) -> list[str]:
    """Return the lines of the faults, without the name of the file."""
    with pytest.raises(WrongConfiguration) as caught:
        loaded(folder, text, **environ)
    return [
        line.removeprefix(str(folder / "aiosmtpd.toml")) for line in str(caught.value).split("\n")
    ]


def warnings(folder: Path, text: str) -> list[str]:
    found = loaded(folder, text).warnings
    return [str(one).removeprefix(str(folder / "aiosmtpd.toml")) for one in found]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file(name: str, tmp_path: Path) -> None:
    text, lines = WRONG[name]
    (tmp_path / "users").write_text("anne:secret\n")
    expected = [line.replace("{folder}", str(tmp_path)) for line in lines]
    found = faults(tmp_path, text)
    if name == "not TOML":
        # The end of the line is Python's own.
        found = [line[: len(expected[0])] for line in found]
    assert found == expected


def test_there_are_more_than_thirty_wrong_files() -> None:
    assert len(WRONG) >= 30


def test_a_right_file(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD).config
    assert config == Config(
        listen=(Place(port=8025),), handler="shop:Handler", source=str(tmp_path / "aiosmtpd.toml")
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WrongConfiguration, match=r"gone: No such file or directory$"):
        load(tmp_path / "gone", {})


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'a = "b"\nc = "\xff"\n')
    with pytest.raises(WrongConfiguration, match=r"a.toml:2: expected text in UTF-8$"):
        load(tmp_path / "a.toml", {})


def test_times_sizes_and_paths(tmp_path: Path) -> None:
    text = ROUTE + (
        'to = "nats://localhost/in"\nretry = "remote"\nlarge = "512K"\ntimeout = "2m"\n'
        '[tls]\ncert = "/etc/a.pem"\nkey = "keys/a.key"\n[limits]\nsize = "25M"\n'
    )
    config = loaded(tmp_path, text).config
    assert config.limits.size == 25 << 20
    assert config.routes[0].retry.first == 300
    assert config.routes[0].options == {"large": 512 << 10}
    assert config.routes[0].timeout == 120
    assert config.tls is not None
    assert config.tls.cert == "/etc/a.pem"
    assert config.tls.key == str(tmp_path / "keys" / "a.key")
    assert config.spool is not None
    assert config.spool.path == str(tmp_path / "spool")


def test_a_unix_socket_is_beside_the_file(tmp_path: Path) -> None:
    text = 'listen = ["unix:s", "lmtp://unix:/run/l", ":1"]\nhandler = "a:b"\n'
    config = loaded(tmp_path, text).config
    assert [place.path for place in config.listen] == [str(tmp_path / "s"), "/run/l", None]
    assert loaded(tmp_path, 'handler = "a:b"\n', AIOSMTPD_LISTEN="unix:t").config.listen[0] == (
        Place(path=str(tmp_path / "t"))
    )


def test_the_settings_of_a_handler(tmp_path: Path) -> None:
    config = loaded(tmp_path, 'listen = ":25"\n[handler]\nuse = "shop:Mail"\ndepth = 3\n').config
    assert (config.handler, config.handler_settings) == ("shop:Mail", {"depth": 3})
    lines = faults(tmp_path, 'listen = ":25"\n[handler]\ndepth = 3\n')
    assert lines[0] == ':2: handler.use: missing: write a text such as "module:Class"'


def test_a_date_among_the_settings_of_a_handler(tmp_path: Path) -> None:
    text = 'listen = ":25"\n[handler]\nuse = "shop:Mail"\n'
    lines = faults(
        tmp_path, text + "since = 2026-11-28\nhours = [07:00:00]\nat.end = 2026-11-28T07:00:00Z\n"
    )
    assert lines == [
        ':4: handler.since: expected a text such as "2026-11-28": write it in quotes',
        ':5: handler.hours.1: expected a text such as "07:00:00": write it in quotes',
        ':6: handler.at.end: expected a text such as "2026-11-28 07:00:00+00:00": '
        "write it in quotes",
    ]
    config = loaded(tmp_path, text + 'since = "2026-11-28"\n').config
    assert Config.from_json(config.to_json()) == config


def test_a_check_goes_on_after_a_wrong_setting_of_a_handler() -> None:
    handler = {"use": "shop:Mail", "urls": ["${GONE}"], "at": {"day": date(2026, 11, 29)}}
    with pytest.raises(WrongConfiguration) as caught:
        load_values("a", {"listen": ":0", "handler": handler}, {})
    config = caught.value.partial.config
    assert config.handler_settings == {"urls": [None], "at": {"day": None}}
    assert Config.from_json(config.to_json()) == config
    assert len(caught.value.faults) == 2


def test_the_environment_counts_more_than_the_file(tmp_path: Path) -> None:
    environ = {
        "AIOSMTPD_WORKERS": "3",
        "AIOSMTPD_LISTEN": "smtp://:1, smtp://:2",
        "AIOSMTPD_LIMITS__SIZE": "1G",
        "AIOSMTPD_SMTP__SMTPUTF8": "no",
        "AIOSMTPD_CONTROLLER_TIMEOUT": "3",
    }
    config = loaded(tmp_path, GOOD + "[limits]\nsize = 3\nerrors = 4\n", **environ).config
    assert config.worker_count == 3
    assert [place.port for place in config.listen] == [1, 2]
    assert (config.limits.size, config.limits.errors) == (1 << 30, 4)
    assert not config.smtp.smtputf8


def test_wrong_variables_are_named(tmp_path: Path) -> None:
    environ = {"AIOSMTPD_LIMITS__SIZE": "much", "AIOSMTPD_LIMIT__ERRORS": "3"}
    assert sorted(faults(tmp_path, GOOD, **environ)) == [
        'AIOSMTPD_LIMITS__SIZE: expected a size such as "500K", "25M" or "1G", not "much"',
        "AIOSMTPD_LIMIT__ERRORS: unknown variable: did you mean AIOSMTPD_LIMITS__ERRORS?",
    ]


def test_secrets_from_variables_and_files(tmp_path: Path) -> None:
    (tmp_path / "hook").write_text("whsec_c2VjcmV0\n")
    text = ROUTE + (
        'to = "https://${HOST}/$${x}"\nsecret = ["file:${FOLDER}/hook"]\n'
        'headers = { Authorization = "Bearer ${TOKEN}" }\n'
    )
    found = loaded(tmp_path, text, HOST="a.test", FOLDER=str(tmp_path), TOKEN="t")
    route = found.config.routes[0]
    assert route.to == "https://a.test/${x}"
    assert route.options == {
        "secret": ["whsec_c2VjcmV0"],
        "headers": {"Authorization": "Bearer t"},
    }
    assert found.sources.is_secret(("route", 0, "to"))
    assert found.sources.is_secret(("route", 0, "headers", "Authorization"))
    assert not found.sources.is_secret(("route", 0, "match"))


def test_a_wrong_secret_is_not_shown(tmp_path: Path) -> None:
    lines = faults(tmp_path, GOOD + "[limits]\nsize = '${SECRET}'\n", SECRET="hunter2")
    assert lines == [
        ':4: limits.size: expected a size such as "500K", "25M" or "1G", '
        "not the secret that is given"
    ]


def test_a_credential_outside_of_systemd(tmp_path: Path) -> None:
    text = GOOD + 'user = "file:${CREDENTIALS_DIRECTORY}/user"\n'
    assert faults(tmp_path, text) == [
        ":3: user: the variable CREDENTIALS_DIRECTORY is not set: systemd sets it for a service "
        "with LoadCredential="
    ]


def test_users_and_their_passwords(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("# staff\n\nanne:pass:word\n")
    text = GOOD + '[auth]\nusers = "users"\nrequire_tls = false\n'
    assert loaded(tmp_path, text).config.auth.pairs == (("anne", "pass:word"),)
    (tmp_path / "users").write_text("anne:secret\nbob secret\n")
    users = tmp_path / "users"
    assert faults(tmp_path, text) == [f":4: auth.users: {users}, line 2: expected USER:PASSWORD"]


def test_files_of_an_editor_that_marks_utf_8(tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes("\ufeffanne:pa\u2028ss\r\nbob:\x0b\r\n".encode())
    (tmp_path / "name").write_bytes("\ufeffmx.test\r\n".encode())
    text = GOOD + 'hostname = "file:name"\n[auth]\nusers = "users"\nrequire_tls = false\n'
    config = loaded(tmp_path, text).config
    assert config.auth.pairs == (("anne", "pa\u2028ss"), ("bob", "\x0b"))
    assert config.hostname == "mx.test"


def test_a_preset_counts_less_than_the_file(tmp_path: Path) -> None:
    config = loaded(tmp_path, 'preset = "mx"\n' + GOOD + "[limits]\nerrors = 7\n").config
    assert config.smtp.bare_newline == "reject"
    assert (config.limits.errors, config.limits.connection_rate) == (7, 60)


def test_the_preset_of_users_needs_tls_and_auth(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("anne:secret\n")
    text = 'preset = "submission"\n' + ROUTE + 'to = "smtp://hop.test"\n'
    lines = faults(tmp_path, text + "[auth]\nusers = 'users'\n")
    assert lines == [":7: auth.users: AUTH is only offered over TLS: write [tls] with cert and key"]
    tls = '[tls]\ncert = "a"\nkey = "b"\n'
    config = loaded(tmp_path, text + "[auth]\nusers = 'users'\n" + tls).config
    assert config.smtp.bare_newline == "reject"
    assert config.auth.required
    assert config.tls is not None
    assert config.tls.require


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            'preset = "mx"\n' + GOOD + '[smtp]\nbare_newline = "normalize"\n',
            ":5: smtp.bare_newline:",
        ),
        (GOOD + '[smtp]\nbare_newline = "accept"\n', ":4: smtp.bare_newline:"),
        (GOOD + "[limits]\nerrors = 0\n", ":4: limits.errors: no limit"),
        (GOOD + '[admin]\nhttp = "0.0.0.0:9025"\n', ":4: admin.http: every host"),
        (GOOD + '[proxy]\ntrusted = "0.0.0.0/0"\n', ":4: proxy.trusted.1: every host"),
        (GOOD + 'relay_networks = "::/0"\n', ":3: relay_networks.1: open relay"),
        (GOOD + 'user = "root"\n', ":3: user: workers have the rights of root"),
        ('preset = "mx"\nlisten = "0.0.0.0:25"\nhandler = "a:B"\n', ": no TLS: mail comes"),
        ('listen = "lmtp://0.0.0.0:24"\nhandler = "a:B"\n', ":1: listen.1: LMTP is for"),
        (ROUTE + 'to = "smtp://a.test"\nclients = "any"\n', ":5: route.1.clients: open relay"),
        (
            ROUTE.replace(":8025", "0.0.0.0:25") + 'to = "maildir:m"\n',
            ":3: route.1.match: mail to any address",
        ),
        (
            ROUTE + 'to = "smtps://a.test"\nmatch = "*@a.test"\nverify = false\n',
            ":6: route.1.verify: a stranger can answer",
        ),
        (ROUTE + 'to = "maildir:m"\n[[route]]\nto = "reject"\n', ":5: route.2: no mail comes"),
    ],
)
def test_each_weakening_has_a_warning(text: str, line: str, tmp_path: Path) -> None:
    found = warnings(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(line)


def test_without_workers_no_admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD + '[admin]\nhttp = "127.0.0.1:9025"\nsocket = "ctl"\n'
    assert warnings(tmp_path, text) == []
    monkeypatch.setattr("aiosmtpd.runner.judge.HAS_WORKERS", False)
    http, sock = warnings(tmp_path, text)
    assert http.startswith(":4: admin.http: not served: on this system")
    assert sock.startswith(":5: admin.socket: not served: on this system")
    assert warnings(tmp_path, GOOD) == []


@pytest.mark.parametrize("pattern", ["*", "*@*", "*@*.*", "info@*", "*@*.com", "*@mail*"])
def test_a_relay_to_any_domain_is_guarded(pattern: str, tmp_path: Path) -> None:
    text = ROUTE + f'to = "smtp://a.test"\nmatch = "{pattern}"\n'
    assert "no client may use this route" in faults(tmp_path, text)[0]
    assert loaded(tmp_path, f'relay_networks = "192.0.2.1"\n{text}').config.routes[0].is_guarded


@pytest.mark.parametrize("pattern", ["*@a.test", "*@*.a.test", "postmaster", "a@[192.0.2.1]"])
def test_a_relay_to_known_domains_is_open(pattern: str, tmp_path: Path) -> None:
    config = loaded(tmp_path, ROUTE + f'to = "smtp://a.test"\nmatch = "{pattern}"\n').config
    assert not config.routes[0].is_guarded


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"a = {'[' * 3000}{']' * 3000}", ": lists and tables are nested too deeply"),
        (
            f"{GOOD}handler_of.x = {'[' * 200}{']' * 200}",
            ":3: handler_of.x: lists and tables are nested too deeply",
        ),
        (f"{GOOD}workers = {'9' * 5000}", ":3: the number is too long"),
        (f"{GOOD}workers = 0x{'f' * 5000}", ":3: workers: the number is too long"),
        (
            ROUTE + 'to = "file:a\\u0000b"',
            ":4: route.1.to: ",
        ),
    ],
)
def test_hostile_text_gives_faults(text: str, line: str, tmp_path: Path) -> None:
    assert faults(tmp_path, text)[0].startswith(line)


@pytest.mark.parametrize(
    "text",
    [
        'to = ["smtp://anne:hunter2@hop.test"]',
        'to = [{ password = "hunter2" }]',
        'to = "reject"\nbounce = ["smtp://anne:hunter2@hop.test"]',
        'to = "reject"\nbounce = { password = "hunter2" }',
        'to = "reject"\nmatch = { to = "smtp://anne:hunter2@hop.test" }',
        'to = "reject"\n[tls]\nsni = { cert = "smtp://anne:hunter2@hop.test" }',
    ],
)
def test_a_secret_of_the_wrong_type_is_not_shown(text: str, tmp_path: Path) -> None:
    lines = faults(tmp_path, ROUTE + text)
    assert "hunter2" not in str(lines)
    assert "expected" in str(lines)
