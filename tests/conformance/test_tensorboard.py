"""TensorBoard's own reader reads what the callback writes."""

import io

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aevb_ext.data import Data
from aevb_ext.models import mlp_vae
from aevb_ext.train import Callback, fit
from aevb_ext.train.callbacks import TensorBoard

STEPS = {"batch_size": 20, "evaluate_every": 500, "log_every": 10, "progress": False}


class Logs(Callback):
    def __init__(self):
        self.logs = []

    def on_log(self, run, log):
        self.logs.append(log)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out, logs = tmp_path_factory.mktemp("tensorboard") / "run", Logs()
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    data = Data("small", x[20:], x[:20], image_shape=(2, 3))
    models = [mlp_vae(6, latent=2, hidden=4, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    fit(models[0], data, samples_seen=1000, out=out, callbacks=[TensorBoard()], **STEPS)
    result = fit(models[1], data, samples_seen=2000, out=out, resume=True, callbacks=[TensorBoard(), logs], **STEPS)
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return events.Reload(), result.history, logs.logs


def test_scalars(ran):
    events, history, logs = ran
    # Of both parts of the run, each once.
    for name in ("train", "test"):
        written = {event.step: event.value for event in events.Scalars(f"bound/{name}")}
        assert len(events.Scalars(f"bound/{name}")) == len(history)
        assert written == pytest.approx({record.samples_seen: getattr(record, name) for record in history})
    for name in ("bound", "kl", "reconstruction", "lr", "beta", "rate"):
        written = {event.step: event.value for event in events.Scalars(f"training/{name}")}
        assert list(written) == list(range(200, 2001, 200)) or list(written) == [
            step for step in sorted({*range(200, 2001, 200), 500, 1500})
        ]
        for log in logs:
            assert written[log.samples_seen] == pytest.approx(getattr(log, name))


def test_pictures(ran):
    events, history, _ = ran
    assert set(events.Tags()["images"]) == {"reconstructions", "samples", "manifold"}
    for name in events.Tags()["images"]:
        written = events.Images(name)
        assert [event.step for event in written] == [record.samples_seen for record in history]
        assert Image.open(io.BytesIO(written[-1].encoded_image_string)).size > (1, 1)
