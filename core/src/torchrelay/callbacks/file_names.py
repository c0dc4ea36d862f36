"""Names of checkpoint files: templates whose fields are the epoch, the step and logged metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torchrelay.errors import ConfigurationError

_FIELD = re.compile(r"\{([^{}:]+)(:[^{}]*)?\}")


def fill(template: str, values: Mapping[str, Any], *, with_names: bool = True) -> str:
    """A template with its fields filled in, as `{epoch}-{val_loss:.2f}` becomes `epoch=3-val_loss=0.25`.

    Args:
        template: each field is a name in braces, perhaps with a format after a colon.
        values: by name.
        with_names: write `name=` before each value; a slash in a name becomes an underscore.

    Raises:
        ConfigurationError: a field has no value, or its format does not suit the value.
    """

    def one(match: re.Match[str]) -> str:
        name, spec = match[1], match[2] or ""
        if name not in values:
            raise ConfigurationError(
                f"ModelCheckpoint(filename={template!r}): {name!r} is neither epoch, step nor a logged metric"
            )
        try:
            text = ("{0" + spec + "}").format(values[name])
        except ValueError as error:
            raise ConfigurationError(
                f"ModelCheckpoint(filename={template!r}): {match[0]} cannot be filled in: {error}"
            ) from error
        return f"{name.replace('/', '_')}={text}" if with_names else text

    return _FIELD.sub(one, template)


def versions(stem: str, suffix: str) -> Iterator[str]:
    """`stem.ckpt`, `stem-v1.ckpt`, `stem-v2.ckpt`, ... without end."""
    yield f"{stem}{suffix}"
    number = 0
    while True:
        number += 1
        yield f"{stem}-v{number}{suffix}"


def first_free(stem: str, suffix: str, taken: Callable[[str], bool]) -> str:
    """The first version of a name that is not taken."""
    return next(path for path in versions(stem, suffix) if not taken(path))
