"""Modules that are not ours: a user's factory, or the model that transformers builds from a config.json.

Both run code that is not flopwatch's: a factory because the user names it, a model folder's own code only when the
user says so.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from flopwatch.errors import InputError, MissingError
from flopwatch.model.load import longest_context, read_config
from flopwatch.workload import Workload

_LONGEST: Final = 300  # characters of a message of transformers


class Sizes(NamedTuple):
    """Number and length of what a module is given; `is_tokens`: whole numbers [batch, length]."""

    batch: int
    length: int
    is_tokens: bool


def sizes_of(values: Sequence[Any]) -> Sizes:
    """The sizes of the first tensor among the inputs: tokens, or samples of length 1; one where there is none."""
    for value in values:
        if isinstance(value, torch.Tensor):
            shape = tuple(value.shape)
            is_tokens = len(shape) == 2 and not value.is_floating_point()
            n_rows = max(1, int(shape[0])) if shape else 1
            return Sizes(batch=n_rows, length=max(1, int(shape[1])) if is_tokens else 1, is_tokens=is_tokens)
    return Sizes(batch=1, length=1, is_tokens=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A module and what it is called with: `module(*args, **kwargs)`.

    `has_inputs`: its maker brought them. `takes` has those of `batch` and `seq_len` that its maker was told.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    has_inputs: bool = False
    takes: frozenset[str] = frozenset()

    @property
    def sizes(self) -> Sizes:
        """Number and length of what the module is called with."""
        return sizes_of([*self.args, *self.kwargs.values()])


def load_factory(name: str, workload: Workload, changes: Mapping[str, str] | None = None) -> Source:
    """What `package.module:callable` makes: an nn.Module, or a pair of it and its inputs. Runs the user's code.

    The callable gets those of `batch` and `seq_len` that it has parameters for, and `changes` as keyword arguments.
    Inputs are a tensor, a tuple, or a dictionary of keywords; without them the module is called with random token ids
    [batch, seq_len]. The current folder is on the path, as for `python -m`. Raises InputError naming what is wrong.
    """
    function = find_factory(name)
    if isinstance(function, nn.Module):  # the module itself, not what makes one
        function = functools.partial(_itself, function)
    offered = {"batch": workload.batch, "seq_len": workload.seq_len}
    wanted = {key: _value(text) for key, text in (changes or {}).items()}
    parameters = _parameters(function)
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [] if takes_all else [key for key in wanted if key not in parameters]
    if unknown:
        raise InputError(f"{name} has no parameter {unknown[0]}", hint=f"it has {', '.join(parameters) or 'none'}")
    made = function(**{key: value for key, value in offered.items() if key in parameters} | wanted)
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{name} gave an object of type {type(module).__name__}",
            hint="it must return an nn.Module, or (module, inputs)",
        )
    takes = frozenset(offered) & frozenset(parameters)
    return _with_inputs(name, module, inputs, workload, takes=takes)


def _itself(module: nn.Module) -> nn.Module:
    return module


def load_transformers(path: str, workload: Workload, *, trust_remote_code: bool = False) -> Source:
    """The model that transformers builds from a config.json (or its folder) on `meta`: no weights are read.

    Code in the folder is run only with `trust_remote_code`. Raises MissingError without transformers, InputError for
    a config that it cannot build.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise MissingError(
            "a trace of a config.json needs transformers", hint="pip install 'flopwatch[hf]', or count without --trace"
        ) from error
    file = Path(path) if Path(path).is_file() else Path(path) / "config.json"
    fields = read_config(file)
    if "auto_map" in fields and not trust_remote_code:
        raise InputError(
            f"{file} wants to run code from its folder (auto_map)",
            hint="read that code, then say --trust-remote-code; or count without --trace",
        )
    _check_context(file, fields, workload)
    # A folder's other files (code, remote or not) lie beside its config.json; any other file stands for itself.
    place = str(file.parent if file.name == "config.json" else file)
    with _quiet_transformers(), torch.device("meta"):
        try:
            config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
            module = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        except Exception as error:  # each config class of transformers has checks and kinds of errors of its own
            raise _cannot_build(file, error) from error
    return _with_inputs(str(path), module, None, workload)


def _check_context(file: Path, fields: Mapping[str, Any], workload: Workload) -> None:
    """Raise InputError for more tokens than the config has positions for: on `meta` no table lookup would notice."""
    context = longest_context(fields)
    if context is not None and workload.seq_len > context:
        raise InputError(
            f"seq_len={workload.seq_len} is longer than the context of {file}, {context}",
            hint=f"use --seq {context} or less",
        )


def _cannot_build(file: Path, error: Exception) -> InputError:
    """transformers' own words for what is wrong with a config, in one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    shown = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
    return InputError(f"transformers cannot build {file}: {shown}", hint="give the model as package.module:factory")


def _with_inputs(
    name: str, module: nn.Module, inputs: Any, workload: Workload, *, takes: frozenset[str] = frozenset()
) -> Source:
    if inputs is None:
        return Source(name=name, module=module, args=(_token_ids(module, workload),), takes=takes)
    if isinstance(inputs, Mapping):
        return Source(name=name, module=module, kwargs=dict(inputs), has_inputs=True, takes=takes)
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    return Source(name=name, module=module, args=args, has_inputs=True, takes=takes)


def _token_ids(module: nn.Module, workload: Workload) -> torch.Tensor:
    """Random ids [batch, seq_len] that every table of the module has a row for, the same each time."""
    shape, device = (workload.batch, workload.seq_len), _device(module)
    n_rows = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    if not n_rows or device.type == "meta":
        return torch.zeros(shape, dtype=torch.int64, device=device)
    ids = torch.randint(min(n_rows), shape, generator=torch.Generator().manual_seed(0), device="cpu")
    return ids.to(device)


def _device(module: nn.Module) -> torch.device:
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def find_factory(name: str) -> Any:
    """The callable behind `package.module:callable`; imports its module. Raises InputError naming what is wrong."""
    where, _, attribute = name.partition(":")
    with _current_folder_on_path():
        try:
            found: Any = importlib.import_module(where)
        except ModuleNotFoundError as error:
            missing = error.name or where
            hint = "run flopwatch in the folder that holds it, or install it"
            raise InputError(f"{name}: there is no module {missing}", hint=hint) from error
        for piece in attribute.split("."):
            if not hasattr(found, piece):
                raise InputError(f"{name}: {where} has no {attribute}", hint="write it as package.module:callable")
            found = getattr(found, piece)
    if not callable(found):
        raise InputError(
            f"{name} is of type {type(found).__name__}", hint="it must be a callable that returns an nn.Module"
        )
    return found


@contextlib.contextmanager
def _current_folder_on_path() -> Iterator[None]:
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # a callable written in C that does not say
        return {}


def _value(text: str) -> Any:
    """A Python literal, or the text itself: `4`, `0.1`, `None`, `small`."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No advice on stderr while a model is built; the level is put back."""
    logging = importlib.import_module("transformers.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
