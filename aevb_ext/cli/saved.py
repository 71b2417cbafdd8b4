"""What a run that was saved was trained on."""

from pathlib import Path

from .. import data as datasets
from ..data import Data
from ..runs import CONFIG, folder_of, open_run
from ..train import Checkpoint
from .config import DATA

__all__ = ["data_of"]


def data_of(path, checkpoint: Checkpoint, data_dir=None) -> Data:
    """The data that the run was trained on whose checkpoint, or whose folder, is at ``path``.

    Its config.toml says how the data was loaded. A checkpoint that lies elsewhere has the data's name alone.

    Args:
        path: the checkpoint or the folder.
        checkpoint: what :func:`~aevb_ext.train.load_checkpoint` gave of it.
        data_dir: where the files of named data are now. Default: where they were.

    Raises:
        FileNotFoundError: the data is not there any more.
        ValueError: it is other data now: the pictures have another size, or the numbers another scale.
    """
    in_its_run = (folder_of(Path(path)) / CONFIG).is_file()
    config = open_run(path).config if in_its_run else {}
    options = {key: config[key] for key in DATA if key in config and key != "data"}
    if data_dir is not None:
        options["data_dir"] = data_dir
    data = datasets.load(checkpoint.data, **options)
    found, expected = (data.image_shape, data.x_scale), (checkpoint.image_shape, checkpoint.model.x_scale)
    if found != expected:
        how = "" if in_its_run else "; how it was loaded is in its run's config.toml, which is not here"
        raise ValueError(
            f"{path} was trained on {checkpoint.data} with (image_shape, x_scale) = {expected}, and that has {found} "
            f"now{how}"
        )
    return data
