"""Text that may cross the wire and be stored."""

from __future__ import annotations

from holdfast.errors import InvalidArgumentError

MAX_NAME_CHARS = 128
MAX_KEY_CHARS = 1024
MAX_TAGS = 10
MAX_TAG_CHARS = 128


def check(value: object, name: str, maximum: int = MAX_NAME_CHARS) -> str:
    """`value`, if it is text that a database and protobuf can hold.

    Raises: InvalidArgumentError when it is not text, empty, longer than `maximum` characters, or holds a NUL or a lone
    surrogate.
    """
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name}: {value!r} is not text.")
    if not value:
        raise InvalidArgumentError(f"{name}: is empty.")
    if len(value) > maximum:
        raise InvalidArgumentError(f"{name}: {len(value)} characters are more than the limit of {maximum}.")
    problem = unstorable(value)
    if problem:
        raise InvalidArgumentError(f"{name}: {value!r} holds {problem}, which cannot be stored.")
    return value


def check_tags(tags: object, name: str = "tags") -> list[str]:
    """Tags as a list; one text stands for one tag.

    Raises: InvalidArgumentError for more than 10, or one of more than 128 characters.
    """
    given = [tags] if isinstance(tags, str) else tags
    if not isinstance(given, list | tuple | set | frozenset):
        raise InvalidArgumentError(f"{name}: {tags!r} is neither text nor a list of texts.")
    if len(given) > MAX_TAGS:
        raise InvalidArgumentError(f"{name}: {len(given)} tags are more than the limit of {MAX_TAGS}.")
    checked = [check(tag, f"{name}: tag", MAX_TAG_CHARS) for tag in given]
    return sorted(checked) if isinstance(given, set | frozenset) else list(dict.fromkeys(checked))


def unstorable(value: str) -> str:
    """What in `value` cannot be stored; empty when nothing."""
    if "\0" in value:
        return "a NUL character (\\u0000)"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return "a lone surrogate"
    return ""


def clean(value: str, maximum: int) -> str:
    """`value` made storable and cut to `maximum` characters: for texts that must not be refused, such as errors."""
    if len(value) > maximum:
        value = value[: maximum - 1] + "…"
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode() if unstorable(value) else value
