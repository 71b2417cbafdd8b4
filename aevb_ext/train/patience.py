"""Early stopping."""

from .callbacks import Callback

__all__ = ["Patience"]


class Patience(Callback):
    """Ends a run after so many evaluations without a better held-out bound (:meth:`.Record.held_out`).

    It follows from the history alone: a run that goes on from a checkpoint ends where it would have ended.
    """

    def __init__(self, evaluations: int):
        self._evaluations = evaluations

    def on_start(self, run) -> None:
        self._look(run)

    def on_evaluation(self, run, record) -> None:
        self._look(run)

    def _look(self, run) -> None:
        best = run.history.best()
        if best is None:
            return
        # No step is taken towards a better bound while Adagrad only accumulates.
        since = max(best.steps, run.learner.schedule.silent)
        if sum(record.steps > since for record in run.history) >= self._evaluations:
            run.stop(
                f"no better bound in {self._evaluations} evaluations: the best was {best.held_out:.2f} nats after "
                f"{best.samples_seen} samples"
            )
