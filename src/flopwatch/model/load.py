"""A ModelSpec from what a user writes: a preset's name, a config.json or its folder, a spec file, hf:ORG/NAME."""

from __future__ import annotations

import os.path
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from flopwatch import units
from flopwatch.errors import FlopwatchError, InputError, SpecError, UnknownModelError
from flopwatch.model.presets import find_preset, preset_names
from flopwatch.model.spec import MLASpec, ModelSpec, MoESpec, spec_from_fields

__all__ = ["config_file", "is_factory", "load_spec", "longest_context", "preset_names", "read_config"]

_MOST_SHOWN: Final = 80  # characters of a name that nobody knows
_MOST_BYTES: Final = 10_000_000  # a config.json is a few kB; no network needs more to be described
_FACTORY: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_SUB_SPECS: Final[dict[str, type[msgspec.Struct]]] = {"moe": MoESpec, "mla": MLASpec}
_OTHER_NAMES: Final = {"padded_vocab": "padded_vocab_size"}


def load_spec(name: str, changes: Mapping[str, str] | None = None) -> ModelSpec:
    """The ModelSpec that `name` stands for, with `changes` (field -> text, as `--set` gives them) made to it.

    `name` is a preset, a path to a Hugging Face config.json or its folder, a spec file (.toml, .json) or hf:ORG/NAME.
    The changes are made before fields are derived, so d_model=1024 gives new d_ff and d_head where the model left
    them out. Raises UnknownModelError (with the nearest names), InputError for a file or a change that cannot be used.
    """
    fields = _raw_fields(name)
    changes = {_OTHER_NAMES.get(field, field): str(text) for field, text in (changes or {}).items()}
    for field, text in changes.items():
        _change(fields, field, text, changes)
    if changes:
        said = ", ".join(f"{field}={text}" for field, text in changes.items())
        fields.setdefault("name", "custom")
        if "name" not in changes:
            fields["name"] = f"{fields['name']} ({said})"
    try:
        return spec_from_fields(fields)
    except SpecError as error:
        raise SpecError(f"{name}: {error.message}", hint=error.hint) from error


def is_factory(name: str) -> bool:
    """Whether `name` has the form package.module:callable, which means running the user's code."""
    return not name.startswith("hf:") and _FACTORY.fullmatch(name) is not None


def config_file(name: str) -> Path | None:
    """The config.json that `name` stands for, a folder's or a JSON file with a model_type; None for anything else."""
    path = Path(name)
    if os.path.isdir(name):  # noqa: PTH112 - never raises
        return path / "config.json" if (path / "config.json").is_file() else None
    if path.suffix != ".json" or not os.path.isfile(name):  # noqa: PTH113 - never raises
        return None
    return path if b'"model_type"' in path.read_bytes()[:_MOST_BYTES] else None


def read_config(file: Path) -> dict[str, Any]:
    """The keys of a config.json as they stand; raises InputError for a file that is none."""
    try:
        data = _parse(_read(file), file)
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}", hint="check its permissions") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no table of keys", hint="give a model's config.json")
    return data


def longest_context(config: Mapping[str, Any]) -> int | None:
    """The tokens that a config.json of any type says its model has positions for; None where it does not say."""
    nested = config.get("text_config")
    for keys in (config, nested if isinstance(nested, dict) else {}):
        for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
            value = keys.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _raw_fields(name: str) -> dict[str, Any]:
    """Field -> value of the named model, the derived ones left out."""
    preset = find_preset(name)
    if preset is not None:
        return {"name": preset.name, **preset.fields}
    if name.startswith("hf:"):
        from flopwatch.model.hub import fetch_config

        path = fetch_config(name)
        return _config_fields(_parse(_read(path), path), name, name.removeprefix("hf:"))
    if is_factory(name):
        raise InputError(
            f"{name} is a Python callable and has no closed form",
            hint="use count --trace, which runs it, or bench and fit",
        )
    path = Path(name)
    if "/" in name or path.suffix in {".json", ".toml"} or os.path.isdir(name):  # noqa: PTH112 - never raises
        return _file_fields(path)
    import difflib  # only a name that nobody knows pays for it

    near = difflib.get_close_matches(name.lower(), preset_names(), n=3, cutoff=0.5)
    known = f"did you mean {', '.join(near)}?" if near else f"presets are {', '.join(preset_names()[:4])}, ..."
    shown = name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}..."
    raise UnknownModelError(
        f"no model is called {shown!r}",
        hint=f"{known} (or give a config.json, its folder, a spec file or hf:ORG/NAME)",
    )


def _file_fields(path: Path) -> dict[str, Any]:
    """Field -> value from a file: a spec (.toml, .json) or a Hugging Face config.json (or the folder it is in)."""
    try:
        if path.is_dir():
            path = path / "config.json"
            if not path.exists():
                raise InputError(f"{path.parent} has no config.json", hint="give a model's folder or a spec file")
        elif not path.exists():
            raise UnknownModelError(f"{str(path)!r} does not exist", hint="check the path, or name a preset")
        content = _read(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{str(path)!r} cannot be read: {reason}", hint="check the path and its permissions"
        ) from error
    data = _parse(content, path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no table of fields", hint="see the fields of a spec in docs/models.md")
    if path.suffix != ".toml" and _is_config(data):
        name = path.resolve().parent.name if path.name == "config.json" else path.stem
        return _config_fields(data, str(path), name)
    for other, field in _OTHER_NAMES.items():
        if other in data and field in data:
            raise InputError(f"{path} has {other} and {field}, which are one field", hint="keep one of them")
    fields: dict[str, Any] = {_OTHER_NAMES.get(field) or field: value for field, value in data.items()}
    return {"name": path.stem, **fields}


def _read(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file", hint="give a config.json, its folder or a spec file")
    if status.st_size > _MOST_BYTES:
        raise InputError(
            f"{path} has {units.format_bytes(status.st_size)}, more than a model's description can need",
            hint=f"the limit is {units.format_bytes(_MOST_BYTES)}; is it the weights?",
        )
    return path.read_bytes()


def _parse(content: bytes, path: Path) -> Any:
    kind = "TOML" if path.suffix == ".toml" else "JSON"
    try:
        text = content.decode("utf-8-sig")
        return tomllib.loads(text) if kind == "TOML" else _json(text)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply", hint="a model's description has two levels") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text (byte {error.start})", hint="give a config.json or a spec file"
        ) from error
    except (tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is not valid {kind}: {error}", hint="correct it, or name another file") from error


def _json(text: str) -> Any:
    """What a JSON text holds; NaN and Infinity, which Python writes for a float, are numbers too."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        if "NaN" not in text and "Infinity" not in text:
            raise
        import json  # only such a file pays for it

        try:
            return json.loads(text)
        except ValueError as error:
            raise msgspec.DecodeError(str(error)) from error


def _is_config(data: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a Hugging Face config.json and not a spec file."""
    return bool({"model_type", "architectures", "transformers_version"} & data.keys())


def _config_fields(config: Any, source: str, name: str) -> dict[str, Any]:
    """Field -> value from a config.json, named after its place; a part of a model keeps saying so in its name."""
    if not isinstance(config, dict):
        raise InputError(f"{source} holds no table of keys", hint="give a model's config.json")
    from flopwatch.model.huggingface import config_fields

    fields = config_fields(config, source)
    part = fields.pop("part", None)
    return {"name": f"{name} ({part})" if part else name, **fields}


def _change(fields: dict[str, Any], field: str, text: str, changes: Mapping[str, str]) -> None:
    """Set one field (dotted for a sub-field of moe and mla) from its text, and let its followers be derived anew."""
    head, dot, tail = field.partition(".")
    value = _value(field, text)
    if not dot:
        fields[head] = value
        # What stood for the old value is derived anew: padding of the old vocabulary, layers of a window that is gone.
        if head == "vocab_size" and "padded_vocab_size" not in changes:
            fields.pop("padded_vocab_size", None)
        if head == "window" and value is None:
            fields.pop("window_pattern", None)
        return
    inner = fields.get(head)
    fields[head] = {**(inner if isinstance(inner, dict) else {}), tail: value}


def _value(field: str, text: str) -> Any:
    """The value of a field from its text, by the field's type."""
    kind = _type_of(field)
    options = [option for option in get_args(kind) if option is not type(None)] if get_origin(kind) else [kind]
    if text.lower() == "none" and type(None) in get_args(kind):
        return None
    try:
        if get_origin(kind) is Literal or str in options:
            return text
        if bool in options:
            return {"true": True, "false": False}[text.lower()]
        if get_origin(kind) is tuple:
            return [units.parse_count(number) for number in text.split(",") if number.strip()]
        if int in options:
            parse = units.parse_seq_len if field in {"max_seq_len", "window"} else units.parse_count
            return parse(text)
    except KeyError as error:
        raise InputError(f"--set {field}={text} is not true or false", hint=f"write {field}=true") from error
    except FlopwatchError as error:
        raise InputError(f"--set {field}={text} is not a whole number", hint="write it like 24 or 8k") from error
    raise InputError(f"--set {field}={text} cannot be given as a text", hint=f"set its parts, like {field}.NAME=VALUE")


def _type_of(field: str) -> Any:
    """The type of a field of ModelSpec, or of moe.NAME and mla.NAME; raises InputError naming the nearest one."""
    head, dot, tail = field.partition(".")
    struct = _SUB_SPECS.get(head) if dot else ModelSpec
    known = {f.name: f.type for f in msgspec.structs.fields(struct)} if struct is not None else {}
    if (tail if dot else head) in known:
        return known[tail if dot else head]
    import difflib

    every = [f.name for f in msgspec.structs.fields(ModelSpec)]
    every += [f"{sub}.{f.name}" for sub, kind in _SUB_SPECS.items() for f in msgspec.structs.fields(kind)]
    near = difflib.get_close_matches(field, every, n=1)
    hint = f"did you mean {near[0]}?" if near else "the fields of a spec are listed in docs/models.md"
    raise InputError(f"--set {field}: {field!r} is not a field of a model", hint=hint)
