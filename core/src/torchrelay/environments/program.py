"""The program that this interpreter was started with, so that it can be started again."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# Python's command line (https://docs.python.org/3/using/cmdline.html): these options take an argument, attached
# or as the next word; of them -c and -m end the options.
_WITH_ARGUMENT = "cmWX"
_LONG_WITH_ARGUMENT = "--check-hash-based-pycs"


@dataclass(frozen=True)
class Program:
    """A command line of Python, taken apart.

    Args:
        options: the interpreter's own, such as `-u` or `-X dev`.
        target: `["-m", module]`, `["-c", code]`, `[path]`, or nothing when it reads its standard input.
        arguments: the program's.
    """

    options: tuple[str, ...]
    target: tuple[str, ...]
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Program:
        """Take `sys.orig_argv` apart; its first word is the interpreter."""
        words = list(argv[1:])
        options: list[str] = []
        while words and words[0].startswith("-") and words[0] not in ("-", "--"):
            word = words.pop(0)
            if word.startswith("--"):
                options += [word, words.pop(0)] if word == _LONG_WITH_ARGUMENT else [word]
                continue
            at = next((i for i, letter in enumerate(word) if letter in _WITH_ARGUMENT), None)
            if at is None:
                options.append(word)
                continue
            value = word[at + 1 :] or words.pop(0)
            if word[at] in "cm":
                options += [word[:at]] if at > 1 else []
                return cls(tuple(options), (f"-{word[at]}", value), tuple(words))
            options += [word[: at + 1], value]
        if words[:1] == ["--"]:
            words.pop(0)
        if words[:1] in ([], ["-"]):
            return cls(tuple(options), (), tuple(words[1:]))
        return cls(tuple(options), (words[0],), tuple(words[1:]))

    @classmethod
    def current(cls) -> Program:
        """The program that runs in this process."""
        return cls.parse(sys.orig_argv)

    def torchrun(self, options: str) -> str:
        """The shell command that starts the program under torchrun; `train.py` where this one is no script."""
        kind, name = self.target[:1], os.path.basename("".join(self.target[-1:]))
        is_script = kind not in ((), ("-c",)) and name != "torchrelay"
        words = (*self.target, *self.arguments) if is_script else ("train.py",)
        return shlex.join(["torchrun", *options.split(), *words])


def is_interactive() -> bool:
    """Whether a person types the program: the Python prompt, `python -i`, IPython or a notebook."""
    ipython = sys.modules.get("IPython")
    in_ipython = ipython is not None and ipython.get_ipython() is not None
    return in_ipython or hasattr(sys, "ps1") or bool(sys.flags.interactive)


def start_directory(program: Program) -> str:
    """The folder in which the program was started, as far as it shows; the present one otherwise.

    A program that has changed its folder since would, started again from there, not be found, or nest folders.
    """
    file = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    relative = os.path.normpath(program.target[0]) if program.target else ""
    if program.target[:1] == ("-m",):
        # -m puts the starting folder first on the path; it matters only if the module was found there.
        start = sys.path[0] if sys.path else ""
        if os.path.isabs(start) and os.path.normpath(file).startswith(os.path.join(start, "")):
            return start
    elif relative and not os.path.isabs(relative) and file.endswith(os.sep + relative):
        return file.removesuffix(os.sep + relative) or os.sep
    return os.getcwd()
