"""Settings as people type them: values that Hydra's grammar does not read are quoted for it, and what Hydra and
OmegaConf say of a setting that cannot be is said in plain words, with the key, the value and the nearest key there is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from wbrag.run.inputs import READ_PATHS, SHARED_PATHS

#: Overrides whose value may be a secret, as one that is refused for it.
SECRET = re.compile(r"api_key|hf_token|://[^/]*@")
#: Settings whose value is one path, whatever stands in it.
PATHS = {*READ_PATHS, *SHARED_PATHS} - {"runs"}
#: What other programs call settings of this one.
SYNONYMS = {"top_k": "k", "topk": "k", "llm": "backbone", "dataset": "benchmark", "output_dir": "run_dir"}
#: Options of Hydra that the next word belongs to.
VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
#: What Hydra says of a file of a group that there is not.
FILES = r"Could not find '([\w/]+)/(.*?)'\s+Available options in '.*':\s+(.*?)\n\s*Config search"
#: What OmegaConf says of a value, and what is told of it.
TYPES = [
    (r"Value '(.*)' of type '\w+' could not be converted to Integer", "{0} is no integer"),
    (r"Value '(.*)' of type '\w+' could not be converted to Float", "{0} is no number"),
    (r"Value '(.*)' is not a valid bool", "{0} is no boolean: give true or false"),
    (r"Value '?(.*?)'? \(\w+\) is incompatible with type hint 'typing.List", "{0} is no list, as [a,b]"),
    (r"Value (True|False) \(bool\) is incompatible with type hint 'str'", "{0} is a boolean, not a string: quote it"),
    (r"Value (.*) \((\w+)\) is incompatible with type hint '(\w+)'", "{0} is no {2}"),
    (r"Cannot convert '(\w+)' to string: '(.*)'", "{1} is a {0}, not a string"),
    (r"field '.*' is not Optional", "null is no value of it"),
    (r"Invalid value assigned: (\w+) is not a ListConfig", "a list is needed, as [a,b]"),
    (r"Invalid type assigned: NoneType is not", "null is no value of it"),
    (
        r"Cannot assign (\w+) to Dict|Invalid type assigned: (\w+) is not|Cannot merge DictConfig with ListConfig",
        "it has settings of its own: give those",
    ),
]


def keys_of(schema: type, within: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a schema, dotted, with their types; groups too."""
    types = get_type_hints(schema)
    for one in fields(schema):
        kind = types[one.name]
        yield f"{within}{one.name}", kind
        if is_dataclass(kind) and isinstance(kind, type):
            yield from keys_of(kind, f"{within}{one.name}.")


def mended(words: Sequence[str], schema: type) -> list[str]:
    """The words of a command line as Hydra takes them: a value that its grammar cannot read, and a path that it would
    take for something else, is quoted; a key of one's own, as `prompts.factoid`, needs no `+`; of a group null is
    nothing, which Hydra can tell.
    """
    sweep = bool({"-m", "--multirun"} & set(words))
    kinds = dict(keys_of(schema))
    own = tuple(key for key, kind in kinds.items() if get_origin(kind) is dict or key.endswith("columns"))
    words = [
        one.removesuffix("null") if is_dataclass(kinds.get(one[:-5])) and one.endswith("=null") else one
        for one in words
    ]
    after = ["", *words]
    return [one if before in VALUED else _mended(one, sweep, own) for before, one in zip(after, words, strict=False)]


def _mended(word: str, sweep: bool, own: tuple[str, ...]) -> str:
    name, equals, value = word.partition("=")
    if not equals or name.startswith(("-", "~")):
        return word
    value = os.path.expanduser(value) if value.startswith("~/") else value  # no shell does that behind a =
    free = name.startswith(tuple(f"{key}." for key in own))
    name = f"++{name}" if free or (name in own and value.startswith("{")) else name
    found = read(f"{name}={value}")
    path, text = name.lstrip("+") in PATHS and value != "null", found and found.value()
    broken = found is None and (path or free or not value.startswith(tuple("[{'\"")))
    as_it_is = text == value or value.startswith(tuple("[{'\"")) or (isinstance(text, str) and "\\" in value)
    if value and (broken or (found and path and not as_it_is and not (sweep and found.is_sweep_override()))):
        quoted = f"{name}='{quotable(value)}'"
        if (once_more := read(quoted)) and once_more.value() == value:
            return quoted
    return f"{name}={value}"


def read(word: str) -> Any:  # noqa: ANN401 - Hydra's Override
    """An override as Hydra reads it; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def quotable(value: str) -> str:
    """A value as it stands between Hydra's single quotes: backslashes count before a quote alone, and at the end."""
    return re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)


def shown(override: str) -> str:
    """An override as it is told: without its value where that may be a secret."""
    return f"{override.partition('=')[0]}=..." if SECRET.search(override) else override


def no_such(keys: Sequence[str], known: Sequence[str]) -> str:
    """What is told of keys that there are not; of one, the nearest that there is."""
    near = nearest(keys[0], known) if len(keys) == 1 else ""
    return f"no such setting: {', '.join(keys)}" + (f"; did you mean {near}?" if near else "")


def nearest(key: str, known: Sequence[str]) -> str:
    """The key that was meant, "" where none is near: one of that name in another group or of what others call so, else
    one spelt much like it.
    """
    key = key.lower()
    last = SYNONYMS.get(last := key.rpartition(".")[2], last)
    same = [one for one in known if one.rpartition(".")[2] == last]
    by_name = {one.rpartition(".")[2]: one for one in known}
    near = (
        same or get_close_matches(key, known, 1) or [by_name[one] for one in get_close_matches(last, by_name, 1, 0.75)]
    )
    return near[0] if near else ""


def plain(error: Exception, known: Sequence[str]) -> str:
    """What Hydra or OmegaConf says of a setting, in plain words; `known`: the keys that there are."""
    text = str(error)
    chain, cause = [error], error.__cause__ or error.__context__
    while isinstance(cause, Exception):
        chain, cause = [*chain, cause], cause.__cause__ or cause.__context__
    wrong = next((one for one in chain if isinstance(one, OmegaConfBaseException) and one.full_key), None)
    if found := re.match(r"Could not override '(.+?)'", text):
        return no_such([max(found[1], str(wrong.full_key) if wrong else "", key=len)], known)
    if found := re.search(FILES, text, re.DOTALL):
        there = found[3].split()
        near = get_close_matches(found[2], there, 1)
        meant = f"; did you mean {near[0]}?" if near else ";"
        return f"no {found[1]}/{found[2]} among the files of conf/{meant} There are {', '.join(there)}"
    if found := re.match(r"Ambiguous value for argument '(.+)'", text):
        key, _, value = found[1].partition("=")
        told = f"several values need -m, which runs one after another; one value with a comma: '{key}=\"{value}\"'"
        return f"{shown(found[1])}: {told}"
    if found := re.search(r"Environment variable '(.+?)' not found", text):
        return f"{_full_key(text)}: the environment variable {found[1]} is not set"
    if found := re.match(r"Interpolation key '(.+?)' not found|Unsupported interpolation type (\w+)", text):
        name = found[1] or found[2]
        return (
            f"{_full_key(text)}: ${{{name}}} names no setting; a $ before a brace that is text is written \\${{{name}}}"
        )
    if isinstance(error, OverrideParseException):
        return _unread(error.override)
    if wrong and (found := re.match(r"Error merging override (.+)", text, re.DOTALL)):
        return f"{shown(found[1])}: {_of_type(wrong, found[1])}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _full_key(text: str) -> str:
    return found[1] if (found := re.search(r"full_key: (\S+)", text)) else "a setting"


def _unread(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override!r} is no setting: settings are KEY=VALUE, as run_dir=runs/mine"
    value = value.strip("'\"")
    quoted = shown(f'{key}="{value}"')
    return f"{shown(override)}: the value cannot be read; quote it: '{quoted}'"


def _of_type(error: OmegaConfBaseException, override: str) -> str:
    within = "" if str(error.full_key) == override.lstrip("+").partition("=")[0] else f"{error.full_key}: "
    for pattern, told in TYPES:
        if found := re.match(pattern, str(error), re.DOTALL):
            values = [{"True": "true", "False": "false"}.get(one, one) or "''" for one in found.groups("")]
            return within + told.format(*values)
    return within + str(error).splitlines()[0]
