"""Dropping root's rights: bind as root, then serve as another user."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from attrs import frozen

from aiosmtpd.process.failure import Failure

CHARSETS = (
    "ascii big5 big5hkscs cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp866 "
    "cp874 cp932 cp949 cp950 euc_jp gb18030 hz iso2022_jp iso2022_jp_ext iso2022_kr iso8859_2 "
    "iso8859_5 iso8859_7 iso8859_8 iso8859_15 koi8_r koi8_u latin_1 utf_16 utf_16_be utf_16_le "
    "utf_7"
)
"""The character sets of most mail, by the names of their modules."""

LOADED_LATE = (
    *(f"encodings.{name}" for name in CHARSETS.split()),
    "concurrent.futures.thread",
    "email.generator",
    "email.header",
    "email.parser",
    "email.policy",
    "encodings.idna",
    "json",
    "mailbox",
    "smtplib",
)
"""Modules of Python that the package and the event loop import only when they need them."""

NO_RIGHTS = "Not root: no rights to drop, going on as user %d"

log = logging.getLogger("mail.log")


class CannotSwitch(Failure):
    """The system does not let this process become another user: exit code 1."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 1)


@frozen
class Identity:
    """A user and a group that a process of root can become."""

    user: str
    uid: int
    gid: int

    def assume(self, modules: Iterable[str] = ()) -> None:
        """Become this user, with the groups of the user; raises CannotSwitch.

        *modules* are imported first: Python itself may lie in a folder that only root can read.
        They are not if this is the user already.
        """
        if self.uid != os.geteuid():
            for name in (*LOADED_LATE, *modules):
                import_module(name)
        self.become(os.getgrouplist(self.user, self.gid))

    def become(self, groups: Iterable[int] = ()) -> None:
        """Become this user, with no other groups than *groups* and its own; raises CannotSwitch."""
        try:
            # The last of these takes away the right to do the others.
            os.setgroups(list(groups))
            os.setgid(self.gid)
            os.setuid(self.uid)
        except OSError as error:
            raise CannotSwitch(f'Cannot setuid "{self.user}"') from error
        log.info("Running as user %s, group %d", self.user, self.gid)


def identity_to_assume(
    user: str | None, group: str | None, *, default: str, pwd: Any
) -> Identity | None:
    """Return whom root is to become, or None if this process keeps its user; raises Failure.

    *default* is the user if *user* is None. *pwd* is the module of that name, or None on a system
    without it. A process that is not root's keeps its user, and may only name that one.
    """
    if not hasattr(os, "setuid"):
        log.info("This system cannot switch users: keeping the current one")
        return None
    if pwd is None:
        raise CannotSwitch('Cannot import module "pwd"')
    name = user or default
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        if user is None and group is None and os.geteuid() != 0:
            log.info(NO_RIGHTS, os.geteuid())
            return None
        raise Failure(f"There is no user {name} on this system") from None
    identity = Identity(name, found.pw_uid, _group_id(group) if group else found.pw_gid)
    if os.geteuid() == 0:
        return identity
    if (user or group) and (identity.uid, identity.gid) != (os.geteuid(), os.getegid()):
        raise Failure("Only root can switch to another user or group")
    try:
        # A process without root's rights may still have this one.
        os.setuid(identity.uid)
    except PermissionError:
        log.info(NO_RIGHTS, os.geteuid())
    return None


def _group_id(name: str) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Failure(f"There is no group {name} on this system") from None


def check_writable(folder: str | os.PathLike[str], user: str) -> None:
    """Raise Failure if this process, which is *user*'s by now, cannot write to a folder."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Failure(f"{os.fspath(folder)} cannot be written by {user}: give it to {user} (chown)")
