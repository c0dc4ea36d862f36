"""The files of a DeepSpeed checkpoint: which they are and in what order, without reading them or importing torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from torchrelay.errors import CheckpointError

_MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_00_model_states\.pt")
_OPTIMIZER = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
_ELSEWHERE = re.compile(
    r".*mp_rank_(?!00_).*_states\.pt|layer_\d+.*_states\.pt|.*expert_\d+.*_states\.pt"
)


@dataclass(frozen=True)
class NativeFolder:
    """A checkpoint as `engine.save_checkpoint` writes it.

    Attributes:
        path: of the folder that has the files; `engine.load_checkpoint` takes its parent, and its name as the tag.
        model: the model's files: one, or at stage 3 one of each rank.
        optimizer: the optimizer's files, one of each rank; none at stage 0.
    """

    path: Path
    model: tuple[Path, ...]
    optimizer: tuple[Path, ...]

    @property
    def sharded_parameters(self) -> bool:
        """Whether each rank has a part of each parameter, as at stage 3."""
        return self.model[0].name.startswith("zero_pp_rank")


def is_native(path: str | PathLike[str]) -> bool:
    """Whether something is a DeepSpeed checkpoint: the folder that was named for it, or the one inside."""
    folder = _tagged(Path(fspath(path)))
    return folder.is_dir() and any(_MODEL.fullmatch(each.name) for each in folder.iterdir())


def native_folder(path: str | PathLike[str]) -> NativeFolder:
    """Find a checkpoint's files.

    Raises:
        CheckpointError: there are none, or some are missing, or the model was cut otherwise than by ZeRO.
    """
    folder = _tagged(Path(fspath(path)))
    if not is_native(folder):
        raise CheckpointError(
            f"{path} is no DeepSpeed checkpoint: no ..._model_states.pt is in {folder}; name the folder that "
            "save_checkpoint was given"
        )
    names = {each.name for each in folder.iterdir()}
    cut = sorted(name for name in names if _ELSEWHERE.fullmatch(name))
    if cut:
        raise CheckpointError(
            f"{path} is of a model in parallel parts, such as {cut[0]}; torchrelay reads what ZeRO alone has cut. "
            "Load it into an engine of the same shape"
        )
    model, optimizer = _ordered(names, _MODEL), _ordered(names, _OPTIMIZER)
    _check(path, model, optimizer)
    return NativeFolder(
        folder, tuple(folder / name for name in model), tuple(folder / name for name in optimizer)
    )


def _tagged(folder: Path) -> Path:
    latest = folder / "latest"
    return folder / latest.read_text().strip() if latest.is_file() else folder


def _ordered(names: set[str], pattern: re.Pattern[str]) -> list[str]:
    found = {int(match[1] or 0): name for name in names if (match := pattern.fullmatch(name))}
    return [found[rank] for rank in sorted(found)]


def _check(path: str | PathLike[str], model: list[str], optimizer: list[str]) -> None:
    counts = {
        "model": model if model[0].startswith("zero_pp") else optimizer,
        "optimizer": optimizer,
    }
    if len({len(names) for names in counts.values()}) > 1:
        raise CheckpointError(
            f"{path} is not whole: it has the model of {len(model)} ranks and the optimizer of {len(optimizer)}; "
            "copy the files that are missing"
        )
