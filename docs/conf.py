"""How the documentation is built; tables of options and replies are made from the code."""

import inspect
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger

import aiosmtpd
from aiosmtpd.cli.options import COMMANDS
from aiosmtpd.engine import diagnostics as advice
from aiosmtpd.main import _parser
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.limits import LIMIT_NAMES
from aiosmtpd.protocol.session import AuthResult, Envelope, Session
from aiosmtpd.smtp import SMTP

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "aiosmtpd"
author = "the aiosmtpd developers"
version = release = aiosmtpd.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx_copybutton",
    "look",
    "keys",
    "metrics",
]
exclude_patterns = ["_build", "examples", "explain/figures.rst"]
# Most blocks are not Python: dialogues, options, output. Those that are say so.
highlight_language = "none"
# Quotes and ellipses, but no dashes: "--size" is an option.
smartquotes_action = "qe"
html_theme = "furo"
html_title = f"aiosmtpd {release}"
html_static_path = ["_static"]
html_css_files = ["look.css"]
html_copy_source = False
html_show_sphinx = False
# The button copies a console's commands without their "$" and without the output. Blocks without a
# language are output: they have no button.
copybutton_selector = "div.highlight:not(.highlight-none > .highlight) > pre"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
man_pages = [("reference/man", "aiosmtpd", "server for SMTP and LMTP", author, 1)]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
nitpicky = False
python_maximum_signature_line_length = 80
trim_doctest_flags = True

# Each page's examples run in a folder of their own, in which cert.pem and key.pem are a
# certificate for localhost, made by the command that howto/tls shows.
os.environ["DOCS_EXAMPLES"] = str(Path(__file__).parent / "examples")
doctest_global_setup = """
import os, sys
sys.path.insert(0, os.environ["DOCS_EXAMPLES"])
from workspace import has_openssl, has_pytest, Workspace
workspace = Workspace()
"""
doctest_global_cleanup = "workspace.leave()"


class ConsoleBlock(SphinxDirective):
    """Commands after ``$`` and their output, shown as they are, and run by the doctests.

    The argument names a terminal whose program runs on; later blocks have what it prints next.
    """

    has_content = True
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the block, and a hidden test that runs it."""
        text = "\n".join(self.content)
        language = "console" if "\n$ " in f"\n{text}" else "none"
        shown = nodes.literal_block(text, text, language=language)
        code = f"workspace.console.check({''.join(self.arguments)!r}, {text!r})"
        test = nodes.comment(code, code, testnodetype="testcode", groups=["default"], options={})
        self.set_source_info(shown)
        self.set_source_info(test)
        return [shown, test]


class Table(SphinxDirective):
    """A directive whose text is made by a function."""

    def lines(self) -> Iterable[str]:
        """Return the text, in reStructuredText."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the text in place of the directive."""
        node = nodes.Element()
        text = StringList(list(self.lines()), "generated")
        self.state.nested_parse(text, self.content_offset, node)
        return list(node.children)


class Options(Table):
    """Every option of the command line, or of the command that is named, from its parser."""

    optional_arguments = 1

    def lines(self) -> Iterable[str]:
        """Return a list for each group of options."""
        yield from options_of(parser_of(self.arguments[0]) if self.arguments else _parser())


def parser_of(command: str) -> ArgumentParser:
    """Return the parser of a command of the command line."""
    module = import_module(COMMANDS[command].function.partition(":")[0])
    return module.make_parser(f"aiosmtpd {command}")


def options_of(parser: ArgumentParser) -> Iterable[str]:
    """Return a list for each group of options."""
    for group in parser._action_groups:
        if group._group_actions:
            yield from [f"**{group.title}**", ""]
        for action in group._group_actions:
            spelt = ", ".join(action.option_strings) or str(action.metavar)
            takes = action.option_strings and action.nargs != 0
            name = action.metavar or "|".join(action.choices or [action.dest.upper()])
            value = f" {name}" if takes else ""
            about = str(action.help).replace("%%", "%").replace("*", r"\*")
            about = re.sub(r"(?<!\S)(--[a-z][a-z-]*)", r"``\1``", about)
            yield from [f"``{spelt}{value}``", f"   {about}", ""]


class Commands(Table):
    """The options of every command, from their parsers."""

    def lines(self) -> Iterable[str]:
        """Return a list for each group of options of each command."""
        for name in COMMANDS:
            parser = parser_of(name)
            yield from [f"**aiosmtpd {name}**: {parser.description}", ""]
            yield from options_of(parser)


class Replies(Table):
    """Every reply that the server has ready, from its vocabulary."""

    def lines(self) -> Iterable[str]:
        """Return one table, sorted by reply."""
        named = inspect.getmembers(replies, lambda value: isinstance(value, replies.Reply))
        yield from [".. list-table::", "   :header-rows: 1", "   :widths: 55 25 20", ""]
        yield from ["   * - reply", "     - name", "     - enhanced status code"]
        for name, reply in sorted(named, key=lambda one: one[1]):
            in_text = "in the text" if reply.enhanced else "none"
            code = in_text if reply.enhanced is None or reply.enhanced in reply else reply.enhanced
            yield from [f"   * - ``{reply}``", f"     - ``{name}``", f"     - {code}"]
        yield ""


def _keywords(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}


PROMISED = {
    "reference/smtp": lambda: _keywords(SMTP.__init__) - LIMIT_NAMES,
    "reference/limits": lambda: set(LIMIT_NAMES),
    "reference/handlers": lambda: set(advice.HOOKS),
    "reference/session-and-envelope": lambda: (
        {*vars(Session(None)), *vars(Envelope())} - {"_login_data", "_recipients"}
        | {"login_data", "client_address", "recipients"}
    ),
    "reference/auth": lambda: _keywords(AuthResult.__init__),
}
"""The names that each of these pages must contain."""


def complain_of_what_is_missing(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of names in the code that the page which promises them does not have."""
    for page, names in PROMISED.items():
        text = Path(env.doc2path(page)).read_text(encoding="utf-8")
        for name in sorted(names()):
            if not re.search(rf"\b{name}\b", text):
                getLogger(__name__).warning("%s says nothing of %s", page, name)
    pages = [Path(env.doc2path(page)).read_text(encoding="utf-8") for page in env.found_docs]
    for name in COMMANDS:
        if not any(f".. cli-options:: {name}\n" in text for text in pages):
            getLogger(__name__).warning("no page has the options of %s", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the check."""
    app.add_directive("cli-options", Options)
    app.add_directive("cli-commands", Commands)
    app.add_directive("replies", Replies)
    app.add_directive("console", ConsoleBlock)
    app.connect("env-check-consistency", complain_of_what_is_missing)
    return {"parallel_read_safe": True}
