"""Fuzz one target: ``python -m tests.fuzz TARGET --seconds N``. Needs the extra ``fuzz``.

New inputs that reach new code are kept in ``--corpus`` (a temporary folder by default), in addition
to those of the repository. An input that breaks a target is written to ``./crash-...``.
"""

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

MAIL_NAMES = (
    *("header_block", "mime_field", "encoded_word", "base64", "quoted_printable", "charset"),
    *("uuencode", "message"),
)

CORPUS = Path(__file__).with_name("corpus")
NAMES = ("receiver", "maildata", "path", "parameters", "proxy", "dialogue", "html", "search")


def _quoted(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02X}" for byte in word) + '"\n'


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*NAMES, *MAIL_NAMES])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", help="folder for new inputs")
    settings = parser.parse_args()
    try:
        atheris: Any = import_module("atheris")
    except ImportError:
        sys.exit("atheris is missing: pip install .[fuzz]")
    with atheris.instrument_imports(include=["aiosmtpd"]):
        targets = import_module("tests.fuzz.targets")
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder, "words")
        words.write_text("".join(map(_quoted, targets.WORDS)), encoding="ascii")
        kept = Path(settings.corpus or folder, "kept")
        kept.mkdir(parents=True, exist_ok=True)
        arguments = [
            sys.argv[0],
            str(kept),
            str(CORPUS / settings.target),
            f"-max_total_time={settings.seconds}",
            f"-dict={words}",
            "-max_len=2000",
            "-print_final_stats=1",
            "-timeout=10",
        ]
        atheris.Setup(arguments, targets.TARGETS[settings.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
