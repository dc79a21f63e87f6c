"""Completion as shells ask for it: argcomplete's variables, and a line that is being written."""

import os
import shutil
import subprocess
import sys

import pytest

from aiosmtpd import main
from tests.client import PATIENCE
from tests.net.program import environment

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors are passed")


def completions(line: str, shell: str = "bash") -> list[str]:
    """Return the completions of a command line, by a process of its own."""
    pytest.importorskip("argcomplete")
    reader, writer = os.pipe()
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": shell, "IFS": "\v", "COMP_TYPE": "9"}
    if shell == "fish":
        asked["_ARGCOMPLETE_DFS"] = "\t"
    env = environment(COMP_LINE=line, COMP_POINT=str(len(line)), **asked)
    # Shells listen to descriptor 8.
    code = f"import os, runpy; os.dup2({writer}, 8); os.close({writer}); "
    code += "runpy.run_module('aiosmtpd', run_name='__main__', alter_sys=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        pass_fds=[writer],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writer)
        with open(reader, encoding="utf-8") as pipe:
            said = pipe.read()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, b"", b"")
    return [word.strip() for word in said.split("\v") if word.strip()]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("aiosmtpd --auth-", ["--auth-any", "--auth-file"]),
        ("aiosmtpd --extensions ", ["all", "classic", "modern"]),
        ("aiosmtpd -c ", ["Debugging", "Delivery", "Mailbox", "Sink"]),
        ("aiosmtpd -n -c Mai", ["Mailbox"]),
        ("aiosmtpd --tls ", ["self-signed"]),
        ("aiosmtpd std", ["stdout", "stderr"]),
        ("aiosmtpd sen", ["send"]),
        ("aiosmtpd send --mech", ["--mechanism"]),
    ],
)
def test_completions(line: str, found: list[str]) -> None:
    assert completions(line) == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_shells_show_the_help_of_options(shell: str) -> None:
    said, _ = completions("aiosmtpd --auth-", shell)
    mark = ":" if shell == "zsh" else "\t"
    assert said == f"--auth-any{mark}Offer AUTH and accept any user and password."


def test_in_a_real_shell() -> None:
    argcomplete = pytest.importorskip("argcomplete")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = argcomplete.shellcode(["aiosmtpd"], shell="bash") + (
        f"\naiosmtpd() {{ {sys.executable} -m aiosmtpd; }}\n"
        'COMP_LINE="aiosmtpd --ready-"; COMP_POINT=17; COMP_TYPE=9\n'
        '_python_argcomplete aiosmtpd; echo "${COMPREPLY[*]}"'
    )
    done = subprocess.run(
        [bash, "-c", script], env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stdout.strip(), done.stderr) == ("--ready-file", "")


def test_without_argcomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    with pytest.raises(SystemExit) as caught:
        main.main([])
    assert caught.value.code == 'Completion needs argcomplete: pip install "aiosmtpd[completion]"'
