"""Loading of user code: a TARGET is the name of a module or a path to a .py file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path


class TargetError(Exception):
    """A target cannot be loaded; the message is one line for whoever typed it."""


def load_targets(targets: Iterable[str]) -> None:
    """Import every target, in order. The current directory can be imported from, as with `python -m`.

    Raises: TargetError.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    for target in targets:
        if _is_path(target):
            _load_file(target)
        else:
            _load_module(target)


def find_targets(targets: Iterable[str]) -> None:
    """Look for every target without running it: that the file or module is there, and that a file is Python code.

    Raises: TargetError.
    """
    for target in targets:
        if _is_path(target):
            path = _find_file(target)
            try:
                compile(path.read_bytes(), str(path), "exec")
            except (SyntaxError, ValueError, OSError) as error:
                raise TargetError(f"target {target!r} fails to load: {_cause(error)}") from error
        elif not _has_module(target.partition(".")[0]):
            raise _no_module(target)


def _is_path(target: str) -> bool:
    return target.endswith(".py") or os.sep in target


def _find_file(target: str) -> Path:
    path = Path(target).resolve()
    if not path.is_file():
        raise TargetError(f"target {target!r}: there is no file {path}")
    if path.suffix != ".py":
        raise TargetError(f"target {target!r} is a path, but not to a .py file")
    return path


def _has_module(name: str) -> bool:
    try:
        here = PathFinder.find_spec(name, [os.getcwd()])
        return here is not None or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return True  # loading it says more


def _no_module(target: str) -> TargetError:
    return TargetError(
        f"target {target!r}: there is no such module in {os.getcwd()} or on the path; "
        "give a module's name or a path that ends in .py"
    )


def _load_file(target: str) -> None:
    path = _find_file(target)
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that it can import its neighbours, as a script can
    name = path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"holdfast_target_{name}"  # a user's scheduler.py or queue.py must not shadow anybody's
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"target {target!r} cannot be loaded as Python code")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise TargetError(f"target {target!r} fails to load: {_cause(error)}") from error


def _load_module(target: str) -> None:
    try:
        importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is not None and (target == error.name or target.startswith(error.name + ".")):
            raise _no_module(target) from error
        raise TargetError(f"target {target!r} fails to load: {_cause(error)}") from error
    except BaseException as error:
        raise TargetError(f"target {target!r} fails to load: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """What went wrong and where, in one line."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith("<") and not name.endswith((f"importlib{os.sep}__init__.py", "targets.py")):
            place = f" ({os.path.basename(name)}:{trace.tb_lineno})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({os.path.basename(error.filename)}:{error.lineno})"
        error = SyntaxError(error.msg)  # its text would name the place again
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"
