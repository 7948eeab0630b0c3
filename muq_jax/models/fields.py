"""Frozen configurations as nested dicts of fields: read with checks, replaced, compared."""

import dataclasses
import difflib
from typing import Any, ClassVar, Protocol, TypeVar, get_args

from muq_jax.errors import UserError


class _Configuration(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


ConfigT = TypeVar("ConfigT", bound=_Configuration)

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "an object",
}


def checked(name: str, value: Any, kind: Any) -> Any:
    """Returns a value that is of the kind that a field holds; a whole number is a number, too."""
    wanted = int | float if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} is {value!r}; expected {_KINDS[kind]}")
    return value


def value(data: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """Returns `data["a"]["b"]` for the key "a.b" of a config.json; the default where it is absent or null.

    Raises:
        UserError: it is absent and has no default, or is of another kind.
    """
    found: Any = data
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    found = default if found is None else found
    if found is None:
        raise UserError(f"config.json: the key {key!r} is missing or null")
    return checked(f"config.json: {key}", found, kind)


def as_dict(value: Any) -> Any:
    """Returns a configuration as nested dicts; anything else as it is."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def update(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns `base` with the values of `changes`, nested dicts (or configurations) into nested dicts."""
    merged = dict(base)
    for name, value in changes.items():
        value = as_dict(value)
        nested = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = update(base[name], value) if nested else value
    return merged


def difference(fields: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Returns what `update(base, ...)` needs to give `fields`."""
    changed = {}
    for name, value in fields.items():
        if value != base[name]:
            nested = isinstance(value, dict) and isinstance(base[name], dict)
            changed[name] = difference(value, base[name]) if nested else value
    return changed


def build(base: ConfigT, fields: Any, where: str = "") -> ConfigT:
    """Returns `base` with `fields` replaced, nested dicts into nested configurations.

    Raises:
        UserError: an unknown name, or a value of another kind than the field's.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{where.removesuffix('.')} is {fields!r}; expected its fields by name")
    kinds = {field.name: field.type for field in dataclasses.fields(base)}
    replaced = {}
    for name, value in fields.items():
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(kinds)}"
            raise UserError(f"no field {where + name!r} in the model configuration; {hint}")
        inner = getattr(base, name)
        holds_fields = dataclasses.is_dataclass(inner)
        if not holds_fields:
            replaced[name] = checked(where + name, value, kinds[name])
        elif value is None and type(None) in get_args(kinds[name]):
            replaced[name] = None
        else:
            replaced[name] = build(inner, value, f"{where}{name}.")
    return dataclasses.replace(base, **replaced)
