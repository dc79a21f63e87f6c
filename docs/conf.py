"""How the documentation is built; the tables of options and replies come from the code."""

import inspect
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import aiosmtpd
from aiosmtpd.main import _parser
from aiosmtpd.protocol import replies

project = "aiosmtpd"
author = "the aiosmtpd developers"
version = release = aiosmtpd.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest"]
html_theme = "alabaster"
html_theme_options = {"description": "SMTP and LMTP servers for asyncio"}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
trim_doctest_flags = True
doctest_global_setup = """
import asyncio, logging, smtplib, ssl
"""


class Table(SphinxDirective):
    """A directive whose text is made by a function."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        node = nodes.Element()
        self.state.nested_parse(StringList(self.lines(), "generated"), self.content_offset, node)
        return list(node.children)


class Options(Table):
    """Every option of the command line, from its parser."""

    def lines(self) -> list[str]:
        found = []
        for action in _parser()._actions:
            spelt = ", ".join(action.option_strings) or str(action.metavar)
            takes = action.option_strings and action.nargs != 0
            value = f" {action.metavar or action.dest.upper()}" if takes else ""
            found += [f"``{spelt}{value}``", f"   {action.help}", ""]
        return found


class Replies(Table):
    """Every reply that the server has ready, from its vocabulary."""

    def lines(self) -> list[str]:
        found = [".. list-table::", "   :header-rows: 1", ""]
        found += ["   * - name", "     - text", "     - enhanced status code (RFC 3463)"]
        for name, reply in inspect.getmembers(replies):
            if isinstance(reply, replies.Reply):
                code = reply.enhanced or "in the text"
                found += [f"   * - ``{name}``", f"     - ``{reply}``", f"     - {code}"]
        return [*found, ""]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("cli-options", Options)
    app.add_directive("replies", Replies)
    return {"parallel_read_safe": True}
