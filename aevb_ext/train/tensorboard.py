"""TensorBoard."""

from .. import plots
from .callbacks import Callback
from .metrics import path_in

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Scalars and pictures for TensorBoard, over training samples seen.

    ``training/...`` at each look at the running bound; ``bound/...`` and the pictures at each evaluation. A run that
    goes on from a checkpoint takes back what was written about steps after it. Needs the package tensorboard:
    ``pip install tensorboard``.

    Args:
        folder: of the event files. Default: tensorboard in the run's folder.

    Raises:
        ImportError: the package is not installed.
        ValueError: (at the start) there is neither a folder nor one of the run.
    """

    def __init__(self, folder=None):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError("TensorBoard needs the package tensorboard: pip install tensorboard") from None
        self._make_writer, self._folder = SummaryWriter, folder

    def on_start(self, run) -> None:
        folder = path_in(run, self._folder, "tensorboard", "TensorBoard")
        self._writer = self._make_writer(folder, purge_step=run.samples_seen + 1 if run.steps else None)

    def on_log(self, run, log) -> None:
        for name in ("bound", "reconstruction", "kl", "lr", "beta", "rate"):
            self._writer.add_scalar(f"training/{name}", getattr(log, name), log.samples_seen)

    def on_evaluation(self, run, record) -> None:
        for name in ("train", "valid", "test"):
            if getattr(record, name) is not None:
                self._writer.add_scalar(f"{run.settings.score}/{name}", getattr(record, name), record.samples_seen)
        with run.averaged():
            canvases = plots.canvases(run.model, run.data, run.settings.seed, run.learner.ENCODES)
        for name, canvas in canvases.items():
            layout = "HW" if canvas.dim() == 2 else "HWC"
            self._writer.add_image(name, canvas.nan_to_num(1), record.samples_seen, dataformats=layout)
        self._writer.flush()

    def on_end(self, run, result) -> None:
        self._writer.close()
