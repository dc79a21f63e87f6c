"""Compare the words and links of HTML with those of parse5, a parser that follows the standard.

``python -m tests.mail.compare_html FOLDER``, after ``npm install parse5`` in FOLDER. It prints the
disagreements on a generated corpus, with counts by the part of the answer. It is not in the gate.
"""

import argparse
import json
import random
import re
import subprocess
from collections import Counter
from itertools import groupby

from aiosmtpd.mail.html_text import read

PEER = """
import { parse } from 'parse5';
const never = new Set(['script', 'style', 'template', 'title', 'iframe', 'noembed', 'noframes',
  'datalist', 'desc', 'metadata']);
let input = '';
process.stdin.setEncoding('utf8');
for await (const chunk of process.stdin) input += chunk;
const answers = JSON.parse(input).map((html) => {
  const words = [], links = [];
  const walk = (node, hidden) => {
    const attribute = (name) => (node.attrs || []).find((one) => one.name === name)?.value;
    const style = attribute('style') || '';
    hidden ||= never.has(node.tagName) || attribute('hidden') !== undefined
      || /display:none/.test(style);
    if ((node.tagName === 'a' || node.tagName === 'area') && attribute('href') !== undefined)
      links.push(attribute('href'));
    if (node.nodeName === '#text' && !hidden) words.push(node.value);
    if (node.tagName === 'img' && !hidden && attribute('alt')) words.push(attribute('alt'));
    for (const child of node.childNodes || []) walk(child, hidden);
  };
  walk(parse(html, { scriptingEnabled: false }), false);
  return [words.join(''), links];
});
process.stdout.write(JSON.stringify(answers));
"""

TAGS = re.findall(
    r"\S+",
    "a b i span font div p h1 h2 ul ol li dl dt dd blockquote pre center section form button svg"
    " math title style script textarea template noscript iframe xmp address u em nobr td th tr",
)

OTHER = (
    *(
        "<br>",
        "<hr>",
        "<img alt='q'>",
        "<!-- c -->",
        "<!-->",
        "<!--a--!>",
        "<![CDATA[x]]>",
        "<?x?>",
    ),
    *("&amp;", "&copy", "&notit;", "&#65;", "&#x80;", "a < b", "</", "<!doctype html>", "</ x>"),
    *('<a href="/u?a=1&timestamp=2&amp;b=3">', "<a href=/v?x=y/>", '<a title="a > b"href=/w>'),
    *("<table><tr><td>", "<table><tr><td>", "</table>", "<tr><td>", "</body>", "<head>", "</head>"),
    *("<a href=/1 href=/2>", "<area href=/z>", "<svg/>", "<p/>", "<script><!--<script></script>"),
)


def page(choose: random.Random) -> str:
    """Return a page of a few pieces, with a number in it after each."""
    pieces = []
    for number in range(choose.randint(1, 12)):
        kind = choose.random()
        tag = choose.choice(TAGS)
        if kind < 0.45:
            # A tag of a table is dropped by the standard, but not by us, if there is no table.
            hides = " hidden" if tag[0] != "t" else ""
            pieces.append(f"<{tag}{choose.choice(['', '', '', hides, ' class=x'])}>")
        elif kind < 0.8:
            pieces.append(f"</{tag}>")
        else:
            pieces.append(choose.choice(OTHER))
        if choose.random() < 0.8:
            pieces.append(f"{number}")
    return "".join(pieces)


def letters(text: str) -> str:
    """Return a text without blanks, and without the characters that a page never shows."""
    return "".join(text.replace("\0", "").split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="the folder that has node_modules/parse5")
    parser.add_argument("--pages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20)
    settings = parser.parse_args()
    choose = random.Random(settings.seed)
    pages = [page(choose) for _ in range(settings.pages)]
    peer = subprocess.run(
        ["node", "--input-type=module", "--eval", PEER],
        input=json.dumps(pages),
        capture_output=True,
        check=True,
        cwd=settings.folder,
        text=True,
    )
    counts: Counter[str] = Counter()
    for html, (text, links) in zip(pages, json.loads(peer.stdout), strict=True):
        ours = read(html)
        same = letters(ours.text) == letters(text)
        ordered = sorted(letters(ours.text)) == sorted(letters(text))
        kind = "text" if not ordered else "order" if not same else "equal"
        counts[kind] += 1
        # The standard repeats an <a> in each block that it encloses.
        links = [one for one, _ in groupby(links)]
        wrong = [one for one, _ in groupby(ours.links)] != links
        counts["links"] += wrong
        if kind == "text" and counts["text"] <= settings.show:
            print(f"{html!r}\n   ours {letters(ours.text)!r}, theirs {letters(text)!r}")
        if wrong and counts["links"] <= settings.show:
            print(f"{html!r}\n   ours {ours.links}, theirs {links}")
    print(dict(counts))


if __name__ == "__main__":
    main()
