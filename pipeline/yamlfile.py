"""A YAML file's text as data: no key twice, and no more of it than memory and stack are sure to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import ConfigError

MOST_BYTES = 1 << 20
MOST_NODES = 100_000
"""Values, each counted as often as aliases repeat it: ten lines of aliases can stand for billions."""

_REMEDIES = {
    "mapping values are not allowed": "a value with a colon at its end, or before a space, stands in quotes",
    "cannot start any token": "indent with spaces; a value that begins with @, ` or % stands in quotes",
    "',' or '": "a [ or { is not closed",
    "expected node content": "a [ or { is not closed, or a value is missing",
    "unexpected end of stream": "a quote is not closed",
}
"""By a part of what libyaml says; the whole of it may quote the file, and half a password."""

MOST_LEVELS = 100
MOST_DIGITS = 100

# libyaml takes a second for what takes Python a minute. What it composes of events recurses in C, without a
# bound: 25,000 brackets end the process.
if TYPE_CHECKING:
    from yaml import SafeLoader as _Safe
else:
    _Safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """YAML without the key that silently wins over an earlier one of the same name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise ConfigError(
                    f"the key {key.value!r} stands twice, again in line {key.start_mark.line + 1}; keep one"
                )
            if isinstance(key.value, str) and key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    # Of thousands of digits, or of parts as in 1:30:00, Python takes minutes to make a number, or a text.
    if len(node.value) > MOST_DIGITS:
        line = node.start_mark.line + 1
        raise ConfigError(f"the number in line {line} has more than {MOST_DIGITS} digits")
    made = loader.construct_yaml_int if node.tag.endswith(":int") else loader.construct_yaml_float
    return made(node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _number)


def parse(data: bytes) -> Any:
    """What a YAML file says. Raises ConfigError for what no config needs, yaml.YAMLError, RecursionError
    and ValueError for what is no YAML."""
    if len(data) > MOST_BYTES:
        raise ConfigError(f"it has more than {MOST_BYTES >> 20} MiB; expected a config")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("it is not UTF-8 text") from None
    _check_size(text)
    loader = _Loader(text)
    try:
        # Between composing, where an alias is one node however often it stands, and constructing, where
        # merged keys (<<) are copied.
        node = loader.get_single_node()
        if node is None:
            return None
        values, levels = _expanded(node, {})
        if levels > MOST_LEVELS:
            raise ConfigError(f"its aliases nest deeper than {MOST_LEVELS} levels; write out what is meant")
        if values > MOST_NODES:
            raise ConfigError(
                f"its aliases stand for more than {MOST_NODES:,} values; write out what is meant"
            )
        try:
            return loader.construct_document(node)
        except (LookupError, TypeError, AttributeError, ArithmeticError):
            # PyYAML's own, which hold the value.
            raise ConfigError(
                "a value in it is not what its tag or form says, or a key is a list; write it in quotes"
            ) from None
    finally:
        loader.dispose()


def remedy(error: yaml.MarkedYAMLError) -> str:
    """What to do about a syntax error, in a phrase that quotes nothing."""
    found = (text for part, text in _REMEDIES.items() if part in (error.problem or ""))
    return next(found, "compare docs/configuration.md")


def _check_size(text: str) -> None:
    levels = 0
    for count, event in enumerate(yaml.parse(text, _Safe)):  # one after the other, on no stack
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > MOST_LEVELS:
            raise ConfigError(f"it nests deeper than {MOST_LEVELS} levels; expected a config")
        if count > 2 * MOST_NODES:  # begin and end of each at most
            raise ConfigError(f"it has more than {MOST_NODES:,} values; expected a config")


def _expanded(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Values that ``node`` stands for, those of aliases each time, and levels on which they stand."""
    size = known.get(id(node), (0, 0))
    if size is None:
        raise ConfigError(
            f"an alias in line {node.start_mark.line + 1} holds itself; write out what is meant"
        )
    if size[0]:
        return size
    known[id(node)] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    sizes = [_expanded(each, known) for each in inner]
    size = 1 + sum(values for values, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
    known[id(node)] = size
    return size
