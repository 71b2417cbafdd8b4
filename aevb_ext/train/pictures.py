"""Pictures while training."""

from .. import plots
from .callbacks import Callback
from .metrics import path_in

__all__ = ["Pictures"]


class Pictures(Callback):
    """The curve of the bound, reconstructions, samples and the latent manifold, drawn anew at each evaluation.

    Args:
        folder: where. Default: the run's folder.

    Raises:
        ValueError: (at the start) there is neither a folder nor one of the run.
    """

    def __init__(self, folder=None):
        self._folder = folder

    def on_start(self, run) -> None:
        self.folder = path_in(run, self._folder, "", "Pictures")
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_evaluation(self, run, record) -> None:
        with run.averaged():
            plots.save_all(self.folder, run.model, run.data, run.history, run.settings.seed)
