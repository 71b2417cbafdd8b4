"""Pictures while training."""

import time

from .. import plots
from .callbacks import Callback
from .metrics import path_in

__all__ = ["Pictures"]


class Pictures(Callback):
    """The curve of the bound, reconstructions, samples and the latent manifold, drawn anew now and then and at the end.

    Args:
        folder: where. Default: the run's folder.
        every: seconds that pass at least between evaluations that draw them: it takes about one.

    Raises:
        ValueError: (at the start) there is neither a folder nor one of the run.
    """

    def __init__(self, folder=None, every: float = 30.0):
        self._folder, self._every, self._drawn = folder, every, time.perf_counter()

    def on_start(self, run) -> None:
        self.folder = path_in(run, self._folder, "", "Pictures")
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_evaluation(self, run, record) -> None:
        if time.perf_counter() - self._drawn >= self._every:
            self._draw(run)

    def on_end(self, run, result) -> None:
        self._draw(run)

    def _draw(self, run) -> None:
        with run.averaged():
            encodes, settings = run.learner.ENCODES, run.settings
            plots.save_all(self.folder, run.model, run.data, run.history, settings.seed, encodes, settings.score)
        self._drawn = time.perf_counter()
