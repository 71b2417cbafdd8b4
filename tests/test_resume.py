"""A run that was interrupted anywhere resumes to the same parameters and curve, bit for bit on the CPU."""

import contextlib
import errno
import json
import os
import re
import resource
import signal
import subprocess
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from aevb_ext.configuration.run_folder import run_folder
from aevb_ext.data import BinarizedRows, Data, TensorRows, subset
from aevb_ext.models import VAE, BernoulliDecoder, mlp_vae
from aevb_ext.train import Callback, NonFiniteBound, Settings, checkpoint, fit, load_checkpoint, save_checkpoint
from aevb_ext.train.checkpoint_manager import check_resume, run_description

QUICK = {"samples_seen": 3_000, "batch_size": 20, "evaluate_every": 500, "log_every": 7, "progress": False}


def model(seed=0, hidden=5):
    return mlp_vae(6, latent=2, hidden=hidden, generator=torch.Generator().manual_seed(seed))


def with_dropout(seed=0):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4))
    return VAE(encoder, BernoulliDecoder(nn.Linear(2, 6)), 2)


def small_data(seed=0, n=300):
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(seed)).round()
    return Data("small", x[40:], x[:40], image_shape=(2, 3))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("aevb_ext.train.callbacks.plots.save_all", lambda *_: None)


@pytest.fixture(autouse=True)
def quick_marginal(monkeypatch):
    """In the place of the estimator, which has tests of its own, something quick that depends on the parameters."""

    def values_at_zero(model, x, *, first, count, **_):
        with torch.no_grad():
            return SimpleNamespace(
                values=model.log_likelihood(x[first : first + count], torch.zeros(count, 2)).double()
            )

    monkeypatch.setattr("aevb_ext.estimators.marginal_likelihood", values_at_zero, raising=False)


class At(Callback):
    """Does something once, at the first look at or after a step."""

    def __init__(self, steps, do):
        self._steps, self._do, self.run, self.written = steps, do, None, []

    def on_start(self, run):
        self.run = run

    def on_log(self, run, log):
        if run.steps >= self._steps and self._do:
            do, self._do = self._do, None
            do(run)

    def on_checkpoint(self, run, path):
        self.written.append(run.steps)


class Crash(Exception):
    pass


def crash(_):
    raise Crash


def terminate(_):
    os.kill(os.getpid(), signal.SIGTERM)


def train(out, vae=None, at=None, do=None, data=None, **options):
    """Train, and be where ``do`` ends it at the step ``at``. Gives the model and the history."""
    vae = model() if vae is None else vae
    torch.manual_seed(7 if options.get("resume") else 0)
    callback = At(at or 1 << 60, do)
    with contextlib.suppress(Crash, SystemExit, KeyboardInterrupt):
        fit(vae, data or small_data(), out=out, callbacks=[callback], **QUICK | options)
    return vae, callback.run.history, callback.written


def newest(out):
    return sorted((out / "checkpoints").glob("*.safetensors"))[-1]


def state(out):
    tensors, content = checkpoint.read(newest(out))
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in content["run"]["history"]]
    return tensors, (history, content["run"]["steps"], content["run"]["scaler"], content["settings"])


def same(a, b):
    return a[1] == b[1] and a[0].keys() == b[0].keys() and all(torch.equal(t, b[0][name]) for name, t in a[0].items())


SETTINGS = {
    "adagrad": {},
    "adam, average, cosine": {"optimizer": "adam", "ema": 0.99, "schedule": "cosine", "lr_warmup": 20},
    "sgd, clip, accumulate": {"optimizer": "sgd", "clip": 1.0, "accumulate": 2},
    "beta warm-up, free bits": {"optimizer": "adam", "beta_warmup": 100, "free_bits": 0.1},
    "iwae": {"optimizer": "adam", "estimator": "iwae", "n_samples": 3, "sample_block": 2},
    "fp16, skip": {"optimizer": "adam", "precision": "fp16", "non_finite": "skip"},
    "bf16": {"optimizer": "adam", "precision": "bf16"},
    "dropout": {"optimizer": "adam"},
    "wake-sleep": {"learner": "wake-sleep"},
    # 15 samples a step for each of 20 points, so that there are as many steps.
    "mcem": {
        "learner": "mcem",
        "score": "marginal",
        "samples_seen": 45_000,
        "checkpoint_every": 4_500,
        "evaluate_every": 15_000,
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_goes_on_bit_for_bit(tmp_path, name):
    options = {"checkpoint_every": 300, **SETTINGS[name]}
    make = with_dropout if name == "dropout" else model
    train(tmp_path / "whole", make(), **options)
    out = tmp_path / "stopped"
    train(out, make(), at=1, do=crash, **options)
    # One crash between two checkpoints, one stop in the middle of a batch of steps, one signal: each goes on.
    for at, do in ((31, crash), (64, lambda run: run.stop("enough")), (101, terminate), (None, None)):
        train(out, make(seed=1), at=at, do=do, resume=True, **options)
    assert same(state(out), state(tmp_path / "whole"))
    assert same(*(checkpoint.read(folder / "best.safetensors") for folder in (out, tmp_path / "whole")))


def test_a_crash_comes_to_the_same_as_no_crash_in_metrics(tmp_path):
    train(tmp_path / "whole")
    train(tmp_path / "run", at=99, do=crash)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        # Of a process that was killed: a line beyond the checkpoint, and half of one.
        file.write('{"event": "evaluation", "steps": 125}\n{"event": "eva')
    train(tmp_path / "run", resume=True)
    lines = {}
    for name in ("whole", "run"):
        lines[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    resumed = [line for line in lines["run"] if line["event"] == "resumed"]
    assert [(line["steps"], line["samples_seen"], line["changed"]) for line in resumed] == [(75, 1500, {})]
    kept = [line for line in lines["run"] if line["event"] != "resumed"]
    clock = {"seconds": 0, "rate": 0}
    assert [line | clock for line in kept] == [line | clock for line in lines["whole"]]
    assert [line["steps"] for line in kept if line["event"] == "evaluation"] == [25, 50, 75, 100, 125, 150]


def test_the_last_are_kept_and_the_best(tmp_path):
    _, history, written = train(tmp_path / "run", keep=2, checkpoint_every=200, optimizer="adam", lr=0.05)
    # Of the beginning, every 200 samples, and at each evaluation.
    assert written == sorted({0, *range(10, 151, 10), *range(25, 151, 25)})
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000000140.safetensors", "000000150.safetensors"]
    assert load_checkpoint(tmp_path / "run").samples_seen == history.best().samples_seen


def test_the_best_model_is_the_average_where_there_is_one(tmp_path):
    class Averages(Callback):
        def on_evaluation(self, run, record):
            with run.averaged():
                self.now = {name: t.clone() for name, t in run.model.state_dict().items()}
            if record is run.history.best():
                self.best = self.now

    averages, vae = Averages(), model()
    options = QUICK | {"optimizer": "adam", "ema": 0.9, "lr": 0.05}
    fit(vae, small_data(), out=tmp_path, callbacks=[averages], **options)
    for path, expected in ((tmp_path, averages.best), (newest(tmp_path), averages.now)):
        found = load_checkpoint(path).model.state_dict()
        assert all(torch.equal(found[name], t) for name, t in expected.items())
    assert any(not torch.equal(averages.now[name], t) for name, t in vae.state_dict().items())


def test_evaluations_are_without_dropout_and_leave_modes_as_they_were():
    class Modes(Callback):
        def on_evaluation(self, run, record):
            assert run.model.encoder[3].training and not run.model.encoder[1].training

    vae = with_dropout()
    vae.encoder[1].eval()
    # On fixed noise: without a step between them, two evaluations are equal.
    result = fit(vae, small_data(), callbacks=[Modes()], **QUICK | {"optimizer": "sgd", "lr": 1e-38})
    assert len({record.test for record in result.history}) == 1


def test_a_run_longer_than_it_was(tmp_path):
    train(tmp_path / "whole", samples_seen=4_000)
    train(tmp_path / "run")
    train(tmp_path / "run", resume=True, samples_seen=4_000)
    assert same(state(tmp_path / "run"), state(tmp_path / "whole"))


def test_a_run_at_its_end_has_nothing_to_do(tmp_path):
    first, _, _ = train(tmp_path / "run")
    before = newest(tmp_path / "run").read_bytes()
    again = model(1)
    result = fit(again, small_data(), out=tmp_path / "run", resume=True, **QUICK)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))
    assert [record.steps for record in result.history] == [25, 50, 75, 100, 125, 150]
    assert newest(tmp_path / "run").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lr": 0.5, "seed": 3}, r"lr: 0\.02 -> 0\.5, seed: 0 -> 3\)"),
        ({"learner": "wake-sleep"}, "learner: 'aevb' -> 'wake-sleep'"),
        ({"batch_size": 30}, "batch_size: 20 -> 30"),
        ({"ema": 0.9}, r"ema: None -> 0\.9"),
        ({"vae": model(hidden=6)}, r"model\.hidden: 5 -> 6"),
        ({"data": small_data(seed=1)}, r"data\.train\.fingerprint: "),
        ({"data": small_data(n=301)}, r"data\.train\.count: 260 -> 261"),
        ({"data": replace(small_data(), name="other", x_scale=0.5)}, r"data\.name: 'small' -> 'other'"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_changes_are_refused_by_name(tmp_path, changes, told):
    train(tmp_path / "run", at=60, do=crash)
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=told):
        train(tmp_path / "run", resume=True, **changes)
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_changes_that_are_asked_for(tmp_path):
    train(tmp_path / "run", at=60, do=crash)
    harmless = {"log_every": 3, "evaluate_every": 1_000, "patience": 50, "non_finite": "skip", "samples_seen": 2_000}
    train(tmp_path / "run", resume=True, **harmless)
    changes = {**harmless, "lr": 0.1, "data": small_data(seed=1), "samples_seen": 3_000}
    with pytest.raises(ValueError, match=r"another one \(lr: [^,]*\); .*: override=\['lr'\]"):
        train(tmp_path / "run", resume=True, override=["data"], **changes)
    with pytest.raises(ValueError, match="override: there is no 'learning_rate'"):
        train(tmp_path / "run", resume=True, override=["learning_rate"], **changes)
    train(tmp_path / "run", resume=True, override=["data", "lr"], **changes)
    resumed = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["changed"].get("lr") for line in resumed if line["event"] == "resumed"] == [None, [0.02, 0.1]]
    # The length of a cosine is part of every step of it.
    train(tmp_path / "cosine", at=60, do=crash, schedule="cosine")
    with pytest.raises(ValueError, match="samples_seen: 3000 -> 4000"):
        train(tmp_path / "cosine", resume=True, schedule="cosine", samples_seen=4_000)


def test_data_that_moved_is_the_same_data(tmp_path):
    train(tmp_path / "whole")
    out = tmp_path / "run"
    train(out, at=60, do=crash)
    train(out, resume=True, data=replace(small_data(), name="/elsewhere/small"))
    (line,) = [line for line in lines_of(out) if line["event"] == "resumed"]
    assert line["changed"] == {"data.name": ["small", "/elsewhere/small"]}
    tensors, _ = checkpoint.read(newest(out))
    assert all(torch.equal(t, tensors[name]) for name, t in checkpoint.read(newest(tmp_path / "whole"))[0].items())


def lines_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def changed(rows, i):
    rows = rows.clone()
    rows[i, 0] = 1 - rows[i, 0]
    return rows


@pytest.mark.parametrize("i", [0, 7, 39])
def test_one_row_that_changed_is_seen(i):
    before = small_data()
    about = run_description(model(), before, Settings())
    after = run_description(model(), replace(before, test=changed(before.test, i)), Settings(), like=about)
    with pytest.raises(ValueError, match=r"\(data\.test\.fingerprint: '\w{16}' -> '\w{16}'\)"):
        check_resume("c", {**about, "run": {}}, after)
    assert check_resume("c", {**about, "run": {}}, run_description(model(), before, Settings(), like=about)) == {}


def test_of_rows_that_are_drawn_it_is_the_data_that_counts():
    """One number of the grey data, by the least it can change, of a split and of some of a split's rows."""
    grey = torch.randint(256, (40, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    other = grey.clone()
    other[20, 3] ^= 1
    for part in (lambda rows: rows, lambda rows: subset(rows, torch.arange(15, 25))):
        abouts = [
            run_description(model(), Data("grey", *[part(BinarizedRows(x, 1 / 255))] * 2), Settings())["data"]["train"]
            for x in (grey, grey.clone(), other)
        ]
        assert abouts[0] == abouts[1] and abouts[0]["fingerprint"] != abouts[2]["fingerprint"]


class Filed(TensorRows):
    """As rows that stay in their file."""

    resident = False

    def to(self, device):
        return self


def test_of_large_data_a_sample_is_compared(tmp_path, monkeypatch, capsys):
    x = torch.rand(3000, 6, generator=torch.Generator().manual_seed(0)).round()
    data, moved = (Data("filed", Filed(rows), x[:40]) for rows in (x, changed(x, 2999)))
    train(tmp_path / "run", data=data, at=60, do=crash)
    assert run_description(model(), data, Settings())["data"]["train"]["fingerprint_rows"] == 1000
    # The first and the last row are always in it.
    with pytest.raises(ValueError, match=r"data\.train\.fingerprint"):
        train(tmp_path / "run", data=moved, resume=True)
    capsys.readouterr()
    train(tmp_path / "run", data=data, resume=True, progress=True)
    assert "by a sample: 1,000 of 3,000 rows of train\n" in capsys.readouterr().err


def test_checkpoints_from_before_go_on(tmp_path):
    """Their fingerprints are of 16 rows, as they are drawn; what they were is written here."""
    drawn = Data("drawn", *(BinarizedRows(torch.full((n, 6), 100, dtype=torch.uint8), 1 / 255) for n in (260, 40)))
    for data, train_print, test_print in (
        (small_data(), "9beb7fb654b0975c", "c249a3505621700c"),
        (drawn, "a6152ba57b41cbeb", "975fa2b8953ad88f"),
    ):
        out = tmp_path / data.name
        train(out, data=data, at=60, do=crash)
        tensors, content = checkpoint.read(newest(out))
        for split, fingerprint in (("train", train_print), ("test", test_print)):
            content["data"][split] |= {"fingerprint": fingerprint}
            del content["data"][split]["fingerprint_rows"]
        checkpoint.write(newest(out), {name: t.clone() for name, t in tensors.items()}, content)
        with pytest.raises(ValueError, match=r"data\.train\.fingerprint"):
            train(out, data=replace(data, train=small_data(seed=1).train), resume=True)
        train(out, data=data, resume=True)
        assert [line["changed"] for line in lines_of(out) if line["event"] == "resumed"] == [{}]


def test_a_folder_is_of_one_run_at_a_time(tmp_path):
    out, said = tmp_path / "run", []

    def others(run):
        files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        half = out / "checkpoints" / ".000000101.safetensors.abc.part"
        half.write_bytes(b"half")
        for options in ({"resume": True}, {}):
            with torch.random.fork_rng(), pytest.raises(OSError) as error:
                fit(model(), small_data(), out=out, **QUICK | options)
            said.append(error.value)
        # What the run that is alive is about to write is left alone.
        half.unlink()
        assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    train(tmp_path / "whole")
    train(out, at=60, do=others)
    assert isinstance(said[0], BlockingIOError)
    assert re.fullmatch(rf"out: a run is active in the folder {out} \(process {os.getpid()} on .+\): .*", str(said[0]))
    assert isinstance(said[1], FileExistsError)
    assert same(state(out), state(tmp_path / "whole")) and not (out / ".lock").exists()
    # One that is about to begin, in a folder that is empty until now.
    (tmp_path / "new").mkdir()
    with run_folder(tmp_path / "new", resume=False), pytest.raises(BlockingIOError, match="a run is active"):
        train(tmp_path / "new")
    train(tmp_path / "new")


def test_a_lock_ends_with_its_process(tmp_path):
    train(tmp_path, at=60, do=crash)
    reading, writing = os.pipe()
    if not (child := os.fork()):
        with run_folder(tmp_path, resume=True):
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    with pytest.raises(BlockingIOError, match=rf"\(process {child} on"):
        train(tmp_path, resume=True)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").exists()
    train(tmp_path, resume=True)
    assert not (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("aevb_ext.configuration.run_folder.fcntl.flock", refused)
    with pytest.warns(UserWarning, match=f"the file system of {tmp_path} has no locks .No locks available"):
        train(tmp_path, at=60, do=crash)
    assert newest(tmp_path).is_file() and not (tmp_path / ".lock").exists()


def test_there_must_be_something_to_go_on_from(tmp_path):
    with pytest.raises(ValueError, match="resume needs out"):
        train(None, resume=True)
    with pytest.raises(FileNotFoundError, match="resume: there is no folder"):
        train(tmp_path / "none", resume=True)
    with pytest.raises(FileNotFoundError, match="resume: there is no checkpoint in"):
        train(tmp_path, resume=True)
    save_checkpoint(tmp_path / "checkpoints" / "000000003.safetensors", model(), data="small")
    with pytest.raises(ValueError, match="holds a model only"):
        train(tmp_path, resume=True)
    for name in ("keep", "checkpoint_every"):
        with pytest.raises(ValueError, match=f"{name} must be an integer, at least 1, got 0"):
            train(tmp_path / "new", **{name: 0})
    assert not (tmp_path / "new").exists()


def test_a_run_is_not_begun_over_another(tmp_path):
    train(tmp_path / "run", at=30, do=crash)
    with pytest.raises(FileExistsError, match="resume"):
        train(tmp_path / "run")
    # But where one was killed before its first checkpoint there is none.
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    (tmp_path / "new" / "checkpoints" / ".000000000.safetensors.abc.part").write_bytes(b"half")
    train(tmp_path / "new")


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    train(tmp_path / "whole")
    out = tmp_path / "run"
    train(out, at=110, do=crash)
    damaged, before = newest(out), sorted((out / "checkpoints").iterdir())[-2]
    damaged.write_bytes(damaged.read_bytes()[:-5])
    half = out / "checkpoints" / ".000000101.safetensors.abc.part"
    half.write_bytes(b"half")
    with pytest.warns(UserWarning, match=f"{damaged} is truncated.*resumes from {before}"):
        train(out, resume=True)
    assert same(state(out), state(tmp_path / "whole"))
    # Another name, or the last k would count it as one.
    names = {path.name for path in (out / "checkpoints").iterdir()}
    assert names == {f"{n:09d}.safetensors" for n in (100, 125, 150)} | {"000000100.safetensors.damaged"}
    for path in (out / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no checkpoint of .* is intact: .*150.*125.*100"):
        train(out, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, c: c["run"].update(steps=-1),
        lambda t, c: c["run"].update(steps="3"),
        lambda t, c: c["run"].update(history=[{"steps": 3}]),
        lambda t, c: c["run"].update(history=[dict.fromkeys(c["run"]["history"][0], "x")]),
        lambda t, c: c["run"].update(seconds=None),
        lambda t, c: c.update(run=[]),
        lambda t, c: c["settings"].update(__class__="x"),
        lambda t, c: c["settings"].update(batch_size=-1),
        lambda t, c: t.update({"optimizer.0.sum": torch.zeros(1)}),
        lambda t, c: t.pop("optimizer.0.sum"),
        lambda t, c: t.update({"optimizer.99.sum": torch.zeros(1)}),
        lambda t, c: t.update({"optimizer.x.sum": torch.zeros(1)}),
        lambda t, c: t.update({"model.encoder.0.weight": torch.zeros(1)}),
        lambda t, c: t.update({"average.encoder.0.weight": torch.zeros(1)}),
        lambda t, c: t.pop("random.cpu"),
        lambda t, c: t.update({"random.cpu": torch.full_like(t["random.cpu"], 255)}),
        lambda t, c: t.update({"random.cpu": torch.zeros(3)}),
    ],
)
def test_a_forged_checkpoint_is_refused_by_its_path(tmp_path, change):
    train(tmp_path / "run", at=60, do=crash)
    path = newest(tmp_path / "run")
    tensors, content = checkpoint.read(path)
    tensors = {name: t.clone() for name, t in tensors.items()}
    change(tensors, content)
    checkpoint.write(path, tensors, content)
    with pytest.raises(ValueError, match=path.name):
        train(tmp_path / "run", resume=True)


@pytest.fixture
def nobody_handles_signals():
    """What started the tests may have told them to ignore SIGINT, as shells tell what they start in the background."""
    defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step(tmp_path, capsys, number, nobody_handles_signals):
    def kill(run):
        os.kill(os.getpid(), number)

    exception = {signal.SIGTERM: SystemExit, signal.SIGINT: KeyboardInterrupt}[number]
    with pytest.raises(exception) as raised:
        fit(model(), small_data(), out=tmp_path, callbacks=[At(42, kill)], **QUICK)
    said = f"{number.name}: training ended after step 42; it goes on from {newest(tmp_path)}"
    if number == signal.SIGTERM:
        assert raised.value.code == 143 and said in capsys.readouterr().err
    else:
        assert said in str(raised.value)
    assert newest(tmp_path).name == "000000042.safetensors"
    # Handlers are as they were.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_signal_in_the_last_evaluation_is_heeded(tmp_path, nobody_handles_signals):
    class AtTheEnd(Callback):
        def on_evaluation(self, run, record):
            if run.steps == run.settings.steps:
                terminate(run)

    with pytest.raises(SystemExit):
        fit(model(), small_data(), out=tmp_path, callbacks=[AtTheEnd()], **QUICK)
    assert newest(tmp_path).name == "000000150.safetensors"


def test_a_run_that_a_callback_stops_loses_no_step(tmp_path):
    vae, _, written = train(tmp_path, at=64, do=lambda run: run.stop("enough"))
    assert written[-1] == 70
    found = load_checkpoint(newest(tmp_path)).model
    assert all(torch.equal(p, q) for p, q in zip(vae.parameters(), found.parameters(), strict=True))


def test_signals_that_the_program_handles_are_its_own(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        fit(model(), small_data(), out=tmp_path, callbacks=[At(140, terminate)], **QUICK)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard


def test_patience(tmp_path):
    # Far too large a learning rate: the first evaluations are the best.
    options = {"optimizer": "adam", "lr": 0.5, "patience": 3, "samples_seen": 10_000, "evaluate_every": 100}
    callback = At(1 << 60, None)
    result = fit(model(), small_data(), out=tmp_path / "run", callbacks=[callback], **QUICK | options)
    best = result.history.index(result.history.best())
    assert len(result.history) == best + 4 and callback.run.steps < 500
    assert "no better bound in 3 evaluations" in result.stopped
    bounds = [record.held_out for record in result.history]
    assert all(max(bounds[: i + 1]) in bounds[max(0, i - 2) : i + 1] for i in range(len(bounds) - 1))
    # Interrupted on the way it ends at the same evaluation; and having ended it does not begin again.
    steps = callback.run.steps
    train(tmp_path / "other", at=steps - 8, do=crash, **options)
    for _ in range(2):
        _, history, _ = train(tmp_path / "other", resume=True, **options)
        assert [record.test for record in history] == [record.test for record in result.history]


def test_parameters_that_are_not_finite_are_not_written(tmp_path):
    class Poison(Callback):
        # As an update from a gradient that is not finite would.
        def on_log(self, run, log):
            if run.steps == 70:
                with torch.no_grad():
                    next(run.model.parameters())[0, 0] = float("nan")

    options = QUICK | {"log_every": 70, "checkpoint_every": 200}
    with pytest.raises(NonFiniteBound, match=r"a parameter is not finite at step 70.*000000060\.safetensors"):
        fit(model(), small_data(), out=tmp_path, callbacks=[Poison()], **options)
        fit(
            model(),
            small_data(),
            out=tmp_path,
            callbacks=[Poison()],
            **QUICK | {"log_every": 70, "checkpoint_every": 200},
        )
    assert newest(tmp_path).name == "000000060.safetensors"


def test_skipped_steps_are_counted_and_checkpoints_go_on(tmp_path):
    class Counts(Callback):
        non_finite = 0

        def on_log(self, run, log):
            self.non_finite += log.non_finite

    data, counts = small_data(), Counts()
    # Beyond the points whose bound is evaluated.
    data.train[200] = float("nan")
    epochs = 3
    fit(
        model(),
        data,
        validate=False,
        out=tmp_path,
        callbacks=[counts],
        **QUICK | {"non_finite": "skip", "samples_seen": 260 * epochs, "evaluate_every": None, "optimizer": "adam"},
    )
    assert counts.non_finite == epochs
    assert newest(tmp_path).name == "000000039.safetensors"
    assert all(p.isfinite().all() for p in load_checkpoint(newest(tmp_path)).model.parameters())


@contextlib.contextmanager
def no_more_bytes(limit):
    """Files of this process end at so many bytes: what a full disk does to whoever writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written_ends_the_run(tmp_path):
    train(tmp_path / "whole")
    out = tmp_path / "run"
    train(out, at=60, do=crash)
    before = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    almost = min(map(len, before.values())) - 1
    with no_more_bytes(almost), pytest.raises(OSError, match="cannot be written: File too large") as error:
        train(out, resume=True)
    assert error.value.filename == str(out / "checkpoints" / "000000075.safetensors")
    assert {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()} == before
    train(out, resume=True)
    assert same(state(out), state(tmp_path / "whole"))


@pytest.fixture
def full_disk(tmp_path):
    """A file system of its own, of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True)
    if done.returncode:
        pytest.skip("only root mounts")
    yield disk
    # Lazily: what was read from a checkpoint is a view of the file.
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, full_disk):
    train(tmp_path / "whole")
    out = full_disk / "run"
    train(out, at=60, do=crash)
    before = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    ballast = full_disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError) as error:
        train(out, resume=True)
    assert error.value.errno == errno.ENOSPC and str(out) in str(error.value)
    assert {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()} == before
    ballast.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(out, resume=True)
    assert same(state(out), state(tmp_path / "whole"))
