"""Checkpoints of earlier forms, brought to the present one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torchrelay.checkpoint.schema import MANIFEST, SCHEMA_VERSION, check_manifest

Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes a checkpoint of one form into the next. Its argument is a copy of the outer dict; the values are not."""

MIGRATIONS: dict[int, Migration] = {}
"""By the version of the form that each takes. One is added whenever `SCHEMA_VERSION` grows; none is ever removed."""


def migrate(
    checkpoint: Mapping[str, Any],
    migrations: Mapping[int, Migration] = MIGRATIONS,
    to: int = SCHEMA_VERSION,
) -> dict[str, Any]:
    """Bring a checkpoint to the present form, one version after another.

    Args:
        checkpoint: of any earlier form, or of this one; it stays as it is.
        migrations: by the version that each takes.
        to: the version to reach.

    Returns:
        A checkpoint of form `to`. One without a manifest is taken to be of that form.

    Raises:
        CheckpointError: it holds no model, or is of a later form.
    """
    manifest, result = check_manifest(checkpoint, to), dict(checkpoint)
    if manifest is None:
        return result
    for version in range(manifest["schema"], to):
        result = migrations[version](result)
        result[MANIFEST] = {**result[MANIFEST], "schema": version + 1}
    return result
