"""Plain English: the patterns of a dialect that this project has left behind.

A text that matches is not always wrong, but it always has a plainer form. CONTRIBUTING has the
rules; each pattern here says which words to use.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

PROSE = ("aiosmtpd", "tests", "docs", "benchmarks", "README.rst", "NEWS.rst", "CONTRIBUTING.rst")
"""The files and folders in which each text is checked."""

NOT_YET: tuple[str, ...] = ()
"""Files and folders still to be rewritten."""

CITING = ("aiosmtpd", "tests", "docs", "benchmarks", "README.rst", "NEWS.rst", "SECURITY.rst")
"""The files and folders in which each cited rule is checked."""

LONGEST_NAME = 59
"""Characters of a test function's name."""

SUMMARY, PROSE_TEXT, LITERAL, NAME = "summary", "prose", "literal", "name"
ANYWHERE = frozenset({SUMMARY, PROSE_TEXT, LITERAL, NAME})
WRITTEN = frozenset({SUMMARY, PROSE_TEXT})


class Passage(NamedTuple):
    """A piece of text, the line on which it begins, and its kind."""

    line: int
    text: str
    kind: str

    @property
    def flat(self) -> str:
        """The text on one line, with single blanks."""
        return " ".join(self.text.split())

    def line_of(self, position: int) -> int:
        """Return the line of a position in the flat text."""
        word = self.flat.count(" ", 0, position)
        begin = next(islice(re.finditer(r"\S+", self.text), word, None)).start()
        return self.line + self.text.count("\n", 0, begin)


class Rule(NamedTuple):
    """A pattern for flat text, and a sample that it must find."""

    pattern: str
    advice: str
    sample: str
    kinds: frozenset[str] = ANYWHERE

    def search(self, passage: Passage) -> re.Match[str] | None:
        return self.search_in(passage.flat) if passage.kind in self.kinds else None

    def search_in(self, flat: str) -> re.Match[str] | None:
        return re.search(self.pattern, flat)


_PLACES = "place|folder|file|page|table|line|column|point|host|module|cache|branch"
_ASKING = "say|says|tell|tells|print|prints|show|shows|know|knows|see|sees|from|to|is"
_VERBS = (
    "is|are|was|were|has|have|had|can|cannot|may|must|does|do|did|would|will|needs?|wants?"
    "|fails?|gets?|comes?|runs?|waits?|matches|differs?|ends?|begins?|counts?|asks?"
)
_PROXY = "prox|HAProxy|NAT|firewall|wall|load|Postfix|server|client|TLS"

RULES = (
    Rule(r"(?i)\b(?:somebody|whoever|anybody)\b", "name the subject", "It waits for somebody."),
    Rule(
        r"(?i)(?<!as )(?<!by )(?<!user )(?<!become )(?<!becomes )(?<!it to )(?<!\")\bnobody\b(?!@)",
        "name the subject",
        "A reply that nobody reads.",
    ),
    Rule(
        rf"(?i)(?:^|\b(?!(?:{_PLACES}|{_ASKING})s?\b)[\w']+[,;:]? )where "
        rf"(?:(?:there|it|they|this|that|these|none|nothing|one|both|all|you|we)"
        rf"|(?:the|a|an|no|its|some|any|each|every|another|only)(?: [\w'-]+){{1,2}})"
        rf" (?:{_VERBS})\b",
        "say if or when: where is a place",
        "None where there is no hook.",
    ),
    Rule(
        rf"(?i)\bbehind (?!(?:(?:a|an|the|any|its|such|trusted|some|another) )*(?:{_PROXY}))\S+",
        "say after: behind is a wall",
        "The octets behind BDAT are dropped.",
    ),
    Rule(
        r"\b(?:to|for|from|by|than|with|at|unless|but|because) who\b",
        "name the subject: a client that, a user who",
        "a link for who forgot a password",
    ),
    Rule(
        rf"(?:^|[.;:] )[Ww]ho (?:sends|cancels|reads|gives|asks|stops|uses|{_VERBS})\b(?![^.]*\?)",
        "name the subject: a client that, a user who",
        "Who is not root stays who he is.",
    ),
    Rule(
        r"\b(?:of|from|with|by|for|to|into|after|before|beyond|at|than|against|over|without) what "
        r"(?!happens|to )",
        "name the thing: the bytes that, the value of",
        "It answers 250 for what the next hop refused.",
    ),
    Rule(
        r"(?:^|[.;:] )[Ww]hat (?:is|was|are|were|comes|came|has|had|cannot|does|follows|belongs"
        r"|differs|fails|they|it|you|we|the|a|an|one|no|clients|hooks|programs)\b(?![^.]*\?)",
        "name the thing: the bytes that, the value of",
        "It ends. What is left is dropped.",
    ),
    Rule(
        r"^(?:What|Who|Whose|Which|Whether|Where|Whatever)\b(?![^.]*\?)",
        "begin with a verb or a noun",
        "What a host is counted by.",
        frozenset({SUMMARY}),
    ),
    Rule(
        r"(?i)\bwhatever (?:is|was|has|had|came|comes|goes|else)\b",
        "name the thing",
        "Whatever is unusual is left to the driver.",
    ),
    Rule(
        r"(?<!there )\b(?:is|are|was|were) none\b",
        "say that there is no such thing",
        "Its code is none.",
    ),
    Rule(
        r"(?<![Tt]here )\b(?:is|are|was|were) no "
        r"(?!longer\b|more\b|less\b|matter\b|need\b|faster\b|one\b)[a-zA-Z]",
        "say is not a, or has no",
        "A text that is no reply.",
    ),
    Rule(
        r"(?i)(?<!one )(?<!each )(?<!all )(?<!both )(?<!some )(?<!most )(?<!none )\bof which\b",
        "begin a new sentence",
        "A size of which the client knows.",
    ),
    Rule(
        rf", for (?:it|they|there|we|he|these|those|this|that|each|all|none) (?:{_VERBS}|takes?)\b",
        "say because",
        "Set it on the handler, for it runs in a thread.",
    ),
    Rule(
        r"\b(?:is|are|was|were|be|been) told\b",
        "say that it gets a reply, or that the log has it",
        "The client is told 451.",
    ),
    Rule(r"(?i)\btake note\b", "say count, note or record", "Take note of a finished handshake."),
    Rule(
        r"\b(?:[Nn]othing|none|[Nn]either|[Nn]ever) (?:of (?:it|them|these) )?"
        r"(?:is|are|do|does|has) (?:it|they|there|the)\b",
        "use the usual order of words",
        "Nothing is there to wait for.",
    ),
    Rule(
        r"(?<![*<.\[_-])\b[Oo]ctets?\b(?![*>\]_(=-])(?!.*\bRFC\b)",
        "say bytes",
        "It costs 200 octets.",
        WRITTEN,
    ),
)

GOOD = (
    "Return the key by which a host is counted.",
    "Return None if there is no hook.",
    "The page says where the server keeps its authority.",
    "The folder where the messages are kept.",
    "Behind a proxy, the address is that of the header.",
    "There is no such file, and it is no longer needed.",
    "A customer who forgot the password gets a link.",
    "Who is it? What is this?",
    "It runs as nobody. Mail to nobody@example.com.",
    "Started by root, it becomes ``nobody``.",
    "Run it as the user nobody, or give it to nobody.",
    'There is no group "nobody".',
    "None is the default.",
    "The log shows what happens.",
    "Wait for the message, for example at the end.",
    "One of which fails.",
    "Two octets of the header (RFC 3030).",
    "BDAT <octets> [LAST], with *octets* bytes.",
)

PAPERS = (
    r"\b(?:limits|users|contract|architecture|style|fleet|reading)\.md\b",
    r"\bdiffers: contract\b|\bthe contract(?:'s)?\b",
    r"(?<![=%\w.-])(?:L(?:[1-9]|[12]\d|3[0-3])|A(?:[1-9]|1[0-6])|B(?:[1-9]|1\d|2[0-2])"
    r"|C(?:[2-9]|1[0-3]))(?![=\w.-])",
)
"""Papers that no reader of the project has, by name and by row."""


def files(roots: tuple[str, ...], *suffixes: str) -> list[Path]:
    """Return the files under these roots, but this one."""
    found: list[Path] = []
    for root in roots:
        place = ROOT / root
        found += [place] if place.is_file() else sorted(place.rglob("*"))
    return [path for path in found if path.suffix in suffixes and path != Path(__file__)]


def checked(*suffixes: str) -> list[Path]:
    """Return the files in which each text is checked."""
    return [path for path in files(PROSE, *suffixes) if not name_of(path).startswith(NOT_YET)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """Return prose with code in double backticks made neutral."""
    return re.sub(r"``.+?``", lambda code: re.sub(r"\S", "_", code[0]), text, flags=re.DOTALL)


def python_passages(source: str) -> Iterator[Passage]:
    """Return the comments, docstrings, literals and test names of a module."""
    yield from _comments(source)
    inside: set[ast.AST] = set()
    for node in nodes_of(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inside.add(node.value)
            if isinstance(node.value.value, str):
                text = without_code(node.value.value)
                summary, _, rest = text.partition("\n\n")
                yield Passage(node.lineno, summary, SUMMARY)
                yield Passage(node.lineno + summary.count("\n") + 2, rest, PROSE_TEXT)
        elif isinstance(node, ast.JoinedStr):
            parts = node.values
            inside.update(parts)
            text = "".join(
                str(one.value) if isinstance(one, ast.Constant) else "_" for one in parts
            )
            yield Passage(node.lineno, without_code(text), LITERAL)
        elif isinstance(node, ast.Constant) and node not in inside:
            if isinstance(node.value, str) and " " in node.value:
                yield Passage(node.lineno, without_code(node.value), LITERAL)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            words = node.name.removeprefix("test_").replace("_", " ")
            if node.name.startswith("test_"):
                yield Passage(node.lineno, words.capitalize(), NAME)


def nodes_of(tree: ast.AST) -> Iterator[ast.AST]:
    """Return all nodes, each before those in it. ``ast.walk()`` takes twice as long."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        for value in node.__dict__.values():
            if isinstance(value, ast.AST):
                left.append(value)
            elif isinstance(value, list):
                left += [one for one in value if isinstance(one, ast.AST)]


_STRING_OR_COMMENT = re.compile(
    r"('{3}|\"{3})(?:[^\\]|\\.)*?\1"
    r"|'(?:[^'\\\n]|\\.)*'"
    r"|\"(?:[^\"\\\n]|\\.)*\""
    r"|(?P<comment>\#[^\n]*)",
    re.DOTALL,
)
"""To make all tokens of a module takes ten times as long."""


def _comments(source: str) -> Iterator[Passage]:
    """Return the comments, those on lines that follow each other as one."""
    first = last = 0
    text = ""
    joined = False
    line = 1
    counted = 0
    for found in _STRING_OR_COMMENT.finditer(source):
        if found["comment"] is None:
            continue
        line += source.count("\n", counted, found.start())
        counted = found.start()
        alone = not source[source.rfind("\n", 0, counted) + 1 : counted].strip()
        words = found["comment"][1:].strip()
        if joined and alone and line == last + 1:
            text += "\n" + words
        else:
            yield Passage(first, without_code(text), PROSE_TEXT)
            first, text = line, words
        last, joined = line, alone
    yield Passage(first, without_code(text), PROSE_TEXT)


_DIRECTIVE = re.compile(r"( *)\.\. ([\w-]+)::")
_SHOWN = {"console", "code-block", "testoutput", "literalinclude", "image", "doctest", "toctree"}
"""Directives with text that is not prose: what programs print, and code."""


def rst_passages(source: str) -> Iterator[Passage]:
    """Return the paragraphs, list items and cells of a page, and the texts of its examples."""
    lines = source.split("\n")
    passage: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        directive = _DIRECTIVE.match(line)
        skipped = directive is not None and directive[2] in {*_SHOWN, "testcode"}
        if passage and (skipped or _separates(line)):
            text = without_code("\n".join(passage))
            yield Passage(number - len(passage) + 1, text, PROSE_TEXT)
            passage.clear()
        literal = line.rstrip().endswith("::") and directive is None
        if skipped or literal:
            begin, number = number + 1, _end_of_block(lines, number)
            if directive is not None and directive[2] == "testcode":
                yield from _example(lines, begin, number)
            if literal:
                yield Passage(begin, without_code(line), PROSE_TEXT)
            continue
        if line.strip(" =-~"):
            passage.append(line)
        number += 1
    yield Passage(number - len(passage), without_code("\n".join(passage)), PROSE_TEXT)


def _separates(line: str) -> bool:
    return not line.strip(" =-~") or re.match(r" *(?:[*-] |\w+\.\s)", line) is not None


def _end_of_block(lines: list[str], number: int) -> int:
    """Return the number of the first line after the block that *lines[number]* opens."""
    depth = len(lines[number]) - len(lines[number].lstrip())
    number += 1
    while number < len(lines) and (
        not lines[number].strip() or len(lines[number]) - len(lines[number].lstrip()) > depth
    ):
        number += 1
    return number


def _example(lines: list[str], begin: int, end: int) -> Iterator[Passage]:
    code = [line for line in lines[begin:end] if not re.match(r" *:[\w-]+:", line)]
    offset = end - len(code)
    for passage in python_passages(textwrap.dedent("\n".join(code))):
        yield passage._replace(line=passage.line + offset)


def transcript_passages(source: str) -> Iterator[Passage]:
    """Return the titles and comments of a file of transcripts."""
    for number, line in enumerate(source.split("\n"), 1):
        if line.startswith(("== ", "# ")):
            text = line.lstrip("=# ")
            yield Passage(number, text[:1].upper() + text[1:], SUMMARY)


READERS = {".py": python_passages, ".rst": rst_passages, ".txt": transcript_passages}


def folder_of(path: Path) -> str:
    """Return the folder of a file, of at most two names."""
    return "/".join(path.relative_to(ROOT).parent.parts[:2])


def each_folder(*suffixes: str) -> pytest.MarkDecorator:
    """Run a test for the checked files of each folder: a test for each file takes much longer."""
    folders = groupby(sorted(checked(*suffixes), key=folder_of), key=folder_of)
    found = [pytest.param(list(paths), id=folder or "top") for folder, paths in folders]
    return pytest.mark.parametrize("paths", found)


def passages(path: Path) -> Iterator[Passage]:
    return READERS[path.suffix](path.read_text(encoding="utf-8"))


def mistakes(passage: Passage) -> Iterator[str]:
    """Return what is wrong with a passage: its line, the words and the advice."""
    flat = passage.flat
    for rule in RULES:
        if passage.kind in rule.kinds and (found := rule.search_in(flat)) is not None:
            yield f"{passage.line_of(found.start())}: {found[0]!r}: {rule.advice}"


@each_folder(".py", ".rst", ".txt")
def test_texts_are_plain_english(paths: list[Path]) -> None:
    found = [
        f"{name_of(path)}:{mistake}"
        for path in paths
        for passage in passages(path)
        for mistake in mistakes(passage)
    ]
    assert not found, "\n" + "\n".join(found)


@each_folder(".py", ".rst", ".txt")
def test_no_text_names_a_paper_outside(paths: list[Path]) -> None:
    found = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for pattern in PAPERS:
            for match in re.finditer(pattern, text):
                number = text.count("\n", 0, match.start()) + 1
                found.append(f"{name_of(path)}:{number}: {match[0]}")
    assert not found, "\n" + "\n".join(found)


def test_cited_rules_have_their_names_in_the_docs() -> None:
    found = []
    for path in files(CITING, ".py", ".rst", ".txt"):
        text = re.sub(r"\n\s*(?:#\s)?", " ", path.read_text(encoding="utf-8"))
        for page, rule in re.findall(r'docs/([\w/-]+)(?:\.rst)?, "([^"]+)"', text):
            place = ROOT / "docs" / f"{page}.rst"
            if not place.exists() or f"_`{rule}`" not in place.read_text(encoding="utf-8"):
                found.append(f"{name_of(path)} cites docs/{page}, {rule!r}")
    assert not found, "\n" + "\n".join(found)


def test_names_of_tests_are_short() -> None:
    names = rf"^ *(?:async )?def (test_\w{{{LONGEST_NAME - 4},}})\("
    long = [
        f"{name_of(path)}: {name}"
        for path in checked(".py")
        for name in re.findall(names, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert not long


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.sample)
def test_each_rule_finds_its_sample(rule: Rule) -> None:
    kind = min(rule.kinds, key=[SUMMARY, PROSE_TEXT, LITERAL, NAME].index)
    assert rule.search(Passage(1, rule.sample, kind)) is not None
    assert rule.search(Passage(1, rule.sample.replace(" ", "\n"), kind)) is not None


@pytest.mark.parametrize("text", GOOD)
def test_plain_sentences_pass(text: str) -> None:
    assert list(mistakes(Passage(1, without_code(text), SUMMARY))) == []


@pytest.mark.parametrize(
    ("paper", "found"),
    [
        ("limits.md L22", True),
        ("as users.md says", True),
        ("row B20 of the table", True),
        ("differs: contract", True),
        ("C0 and C1 controls", False),
        ("=?utf-8?q?=C3=A9?=", False),
        ("https://x.test/f%C3%BC", False),
        ('docs/reference/limits, "fair turns"', False),
    ],
)
def test_papers_are_found_by_name_and_row(paper: str, found: bool) -> None:
    assert any(re.search(pattern, paper) for pattern in PAPERS) is found


def test_passages_of_a_module_have_their_lines() -> None:
    source = '"""What it is."""\n\nx = "is no word"  # nobody\n# where it\n# is wanted\n'
    found = [mistake for passage in python_passages(source) for mistake in mistakes(passage)]
    assert sorted(mistake.partition(":")[0] for mistake in found) == ["1", "1", "3", "3", "4"]


def test_passages_of_a_page_have_their_lines() -> None:
    source = (
        "Title\n=====\n\nA reply that\nnobody reads::\n\n    nobody\n\n"
        ".. testcode::\n   :hide:\n\n   # nobody\n\n.. console::\n\n   nobody\n\n* is no word\n"
    )
    found = [mistake for passage in rst_passages(source) for mistake in mistakes(passage)]
    assert [mistake.partition(":")[0] for mistake in found] == ["5", "12", "18"]


def test_passages_of_a_transcript_have_their_lines() -> None:
    source = "# Who may come\n\n== what it refuses\nC: nobody\nS: 250 nobody\n"
    found = [mistake for passage in transcript_passages(source) for mistake in mistakes(passage)]
    assert {mistake.partition(":")[0] for mistake in found} == {"1", "3"}
