"""``aiosmtpd serve --systemd-unit``: a service that needs no root."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from functools import partial

from aiosmtpd.runner.config import Config
from aiosmtpd.runner.outlets import scheme_of
from aiosmtpd.runner.slots import LOWEST_FREE_PORT

HARDENING = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""

USER = "aiosmtpd"
"""The user of the service if the file names none."""

HOMES = ("/home", "/root", "/run/user")
"""The folders that ProtectHome= hides."""

NOTE = """\
# If only root can read the key, let systemd pass copies to the service.
# In the configuration, [tls] then names them:
#     cert = "${CREDENTIALS_DIRECTORY}/cert.pem"
#     key = "${CREDENTIALS_DIRECTORY}/key.pem"
# The copies are made at the start: restart after each renewal.
"""

NAMED = """\
# Files for ${CREDENTIALS_DIRECTORY}: root alone needs to read them. Write
# the paths that they have on this machine. systemd makes the copies at the
# start: restart after a change.
"""


def unit(
    config: Config | None,
    program: str,
    file: str,
    *,
    credentials: Sequence[str] = (),
    notify_reload: bool = False,
) -> str:
    """Return a unit for the configuration in *file*, which *program* serves.

    Without *notify_reload* it works with Debian 12's systemd 252; with it, systemd 253 waits for
    the end of a reload. *config* is None if there is no file yet. *credentials* are the values in
    it that name the folder of systemd's credentials.
    """
    lines = [*_head(config, program, file, notify_reload), *_rights(config)]
    lines += _credentials(config, credentials)
    lines += ["", *HARDENING.splitlines(), "", "[Install]", "WantedBy=multi-user.target"]
    return "\n".join(lines) + "\n"


def _head(config: Config | None, program: str, file: str, notify_reload: bool) -> Iterator[str]:
    user = (config.user if config is not None else None) or USER
    yield f"# /etc/systemd/system/{USER}.service"
    yield f"# Once: useradd --system --no-create-home --shell /usr/sbin/nologin {user}"
    yield from ("", "[Unit]", "Description=aiosmtpd mail server")
    yield "Documentation=https://aiosmtpd.readthedocs.io/"
    yield from ("After=network-online.target", "Wants=network-online.target")
    yield from ("", "[Service]")
    if notify_reload:
        yield "Type=notify-reload"
    else:
        # The kill of the shell: a small system has no program of that name.
        yield from ("Type=notify", "ExecReload=/bin/sh -c 'kill -HUP $MAINPID'")
    if hidden := [one for one in (program, file) if any(map(partial(_is_in, one), HOMES))]:
        yield f"# ProtectHome= hides {' and '.join(hidden)}: move this to another folder."
    yield f"ExecStart={_quoted(program)} serve {_quoted(file)}"
    yield from ("NotifyAccess=main", "KillMode=mixed", "WatchdogSec=60")
    yield f"TimeoutStopSec={_stop(config)}"
    yield from ("Restart=on-failure", "RestartSec=1", "RestartPreventExitStatus=2 74")


def _rights(config: Config | None) -> Iterator[str]:
    user = (config.user if config is not None else None) or USER
    yield from ("", f"User={user}")
    if config is not None and config.group is not None:
        yield f"Group={config.group}"
    if _needs_capability(config):
        yield "AmbientCapabilities=CAP_NET_BIND_SERVICE"
        yield "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
    else:
        yield "CapabilityBoundingSet="
    yield from (f"StateDirectory={USER}", f"RuntimeDirectory={USER}", "LimitNOFILE=65536")
    yield f"WorkingDirectory=/var/lib/{USER}"
    yield from _writable(config)


def _quoted(word: str) -> str:
    # systemd replaces percent signs and dollar signs too.
    text = word.replace("%", "%%").replace("$", "$$")
    return text if text == shlex.quote(text) else '"' + text.replace('"', '\\"') + '"'


def _stop(config: Config | None) -> int:
    drain = (config or Config()).drain
    # First the sessions have *grace*, then the deliveries; the master kills workers after that.
    return round(drain.delay + drain.linger + 2 * drain.grace) + 20


def _needs_capability(config: Config | None) -> bool:
    if config is None:
        return True
    return any(place.port and place.port < LOWEST_FREE_PORT for place in config.listen)


def _writable(config: Config | None) -> Iterator[str]:
    """Yield the folders that must be written although the rest of the disk is read-only."""
    state = f"/var/lib/{USER}", f"/run/{USER}"
    if config is None:
        return
    folders = [config.spool.path] if config.spool is not None else []
    folders += [
        os.path.abspath(route.to.partition(":")[2])
        for route in config.routes
        if scheme_of(route.to) == "maildir"
    ]
    files = [place.path for place in config.listen] + [config.admin.socket]
    folders += [os.path.dirname(file) for file in files if file is not None]
    others = [one for one in dict.fromkeys(folders) if not any(map(partial(_is_in, one), state))]
    if others:
        yield f"# Folders outside of {' and '.join(state)}: make them, and give them to the user."
    yield from (f"ReadWritePaths={_quoted(folder)}" for folder in others)


def _is_in(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def _credentials(config: Config | None, named: Sequence[str]) -> Iterator[str]:
    """Yield the files that systemd passes to the service, which only root can read."""
    names = sorted({os.path.basename(value) for value in named})
    pairs = config.tls.pairs if config is not None and config.tls is not None else ()
    if names:
        yield from ("", *NAMED.splitlines())
        yield from (f"LoadCredential={name}:/etc/aiosmtpd/{name}" for name in names)
    elif pairs:
        yield from ("", *NOTE.splitlines())
        for number, pair in enumerate(pairs):
            mark = str(number or "")
            yield f"#LoadCredential=cert{mark}.pem:{pair.cert}"
            yield f"#LoadCredential=key{mark}.pem:{pair.key}"
