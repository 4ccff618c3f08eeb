"""Fields of a struct that a caller made himself: msgspec checks types only of what it decodes."""

from __future__ import annotations

import functools
import reprlib
from numbers import Integral
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

_LONGEST: Final = 200  # characters of a message that quotes a value


def check_fields(struct: msgspec.Struct, error: type[Exception], *, prefix: str = "") -> None:
    """Raise `error` (a kind that takes a message and `hint=`) where a field that is not None is not of its type.

    A table or a list in place of a struct or a tuple becomes one, as it does in a file.
    """
    for name, kind in _kinds(type(struct)).items():
        value = getattr(struct, name)
        if value is None:
            continue
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                allowed = ", ".join(str(choice) for choice in get_args(kind))
                message = f"{prefix}{name}={reprlib.repr(value)} is not one of {allowed}"
                raise error(message, hint="choose one of them")  # type: ignore[call-arg]
            continue
        try:
            converted = msgspec.convert(value, kind)
        except msgspec.ValidationError as wrong:
            said = str(wrong)[:_LONGEST]
            message = f"{prefix}{name}={reprlib.repr(value)}: {said[0].lower()}{said[1:]}"
            raise error(message, hint="give a value of that type") from wrong  # type: ignore[call-arg]
        if isinstance(value, dict | list):
            msgspec.structs.force_setattr(struct, name, converted)


def is_whole(value: object, *, least: int) -> bool:
    """Whether it is a whole number from `least` on; True is none, nor is a tensor of one."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


@functools.cache
def _kinds(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}
