"""Damaged files of a run: every subcommand works correctly or gives an error that names the file.

``python tests/test_damaged_runs.py 2000`` tries so many damages; the tests try the first few of the same.
"""

import contextlib
import io
import json
import random
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from aevb_ext.cli import main
from aevb_ext.configuration.saved_run import open_run
from aevb_ext.paper.training import scored_once
from aevb_ext.train import checkpoint

QUICK = 24

# What stands in the place of a value.
EVIL = [
    None,
    True,
    -1,
    0,
    1.5,
    1 << 70,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "$\\frac{1}$",
    "\x00\u2028",
    "x" * 3000,
    [],
    [1, 2],
    [[1]],
    {},
    {"a": {"b": 1}},
]
BYTES = [
    b"",
    b"[" * 100_000,
    b"[1,2]\n",
    b"{}\n",
    b"null\n",
    b'{"event":"evaluation"}\n',
    b"\xff\xfe\n",
    b"\0",
    b"\n\n",
]
# How a verb ends, if not well.
ENDS = re.compile(r"(usage: .*\n( .*\n)*)?aevb( [\w-]+)?: (error|warning): .+\n?", re.MULTILINE)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("damaged"))


def make_run(folder: Path) -> Path:
    """A run of pictures that are in a file beside it, with each kind of line in its metrics."""
    np.save(folder / "x.npy", np.random.RandomState(0).randint(256, size=(60, 4, 4)).astype(np.uint8))
    flags = ["--data", str(folder / "x.npy"), "--hidden", "4", "--latent", "2", "--out", str(folder / "run")]
    with quiet():
        assert main(["train", *flags, "--samples-seen", "600", "--log-every", "2", "--optimizer", "adam"]) == 0
        assert main(["train", *flags[-2:], "--resume", "--samples-seen", "1000"]) == 0
    return folder / "run"


@contextlib.contextmanager
def quiet():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield out, err


def verbs(run: Path, out: Path) -> list[list[str]]:
    """Every verb that reads a run, but for `export`, whose tracing takes seconds and begins as `sample` does."""
    there = str(run)
    return [
        ["evaluate", there, "--split", "test"],
        ["sample", there, "--n", "2", "--out", str(out / "x.png")],
        ["manifold", there, "--side", "2", "--out", str(out / "x.png")],
        ["interpolate", there, "--steps", "2", "--out", str(out / "x.png")],
        ["augment", there, "--n", "1", "--split", "test", "--out", str(out / "x.npz")],
        ["encode", there, "--split", "test", "--out", str(out / "x.npz")],
        ["anomaly", there, "--out", str(out / "x.csv")],
        ["probe", there],
        ["report", there, "--out", str(out / "x.html")],
        ["compare", there, there, "--out", str(out / "x.html")],
        ["train", "--resume", "--out", there],
        ["train", "--config", f"{there}/config.toml", "--out", str(out / "again"), "--samples-seen", "100"],
    ]


def damaged_bytes(some: random.Random, raw: bytes) -> bytes:
    begin = some.randrange(len(raw) + 1)
    end = min(len(raw), begin + some.choice([0, 1, 1, 8, 100]))
    middle = some.choice([bytes([some.randrange(256)]), some.choice(BYTES), raw[begin:end] * 2, raw[begin:end][::-1]])
    return raw[:begin] + middle + (b"" if some.random() < 0.2 else raw[end:])


def damaged_json(some: random.Random, value):
    """The value, with an evil one somewhere in it."""
    if isinstance(value, dict) and value and some.random() < 0.9:
        key = some.choice(sorted(value))
        if some.random() < 0.1:
            return {name: inner for name, inner in value.items() if name != key}
        return {**value, key: damaged_json(some, value[key])}
    if isinstance(value, list) and value and some.random() < 0.7:
        i = some.randrange(len(value))
        return [*value[:i], damaged_json(some, value[i]), *value[i + 1 :]]
    return some.choice(EVIL)


def damage_metrics(some: random.Random, path: Path) -> None:
    lines = path.read_text().splitlines()
    i = some.randrange(len(lines))
    lines[i] = json.dumps(damaged_json(some, json.loads(lines[i])))
    path.write_text("\n".join(lines) + "\n")


def damage_environment(some: random.Random, path: Path) -> None:
    path.write_text(json.dumps(damaged_json(some, json.loads(path.read_text()))))


def damage_config(some: random.Random, path: Path) -> None:
    lines = path.read_text().splitlines()
    i = some.choice([i for i, line in enumerate(lines) if " = " in line])
    value = some.choice(
        [json.dumps(evil) for evil in EVIL if not isinstance(evil, dict)] + ["nan", "{a = 1}", "1979-05-27"]
    )
    lines[i] = f"{lines[i].partition(' = ')[0]} = {value}"
    path.write_text("\n".join(lines) + "\n")


def forge_checkpoint(some: random.Random, path: Path) -> None:
    """Other content, with a checksum that is right."""
    tensors, content = checkpoint.read(path)
    forged = damaged_json(some, content)
    forged = forged if isinstance(forged, dict) else {"data": forged}
    checkpoint.write(path, {name: t.clone() for name, t in tensors.items()}, forged)


def damage(some: random.Random, run: Path) -> str:
    """Damage one file of a run; says what was done."""
    newest = max((run / "checkpoints").iterdir())
    path, change = some.choice(
        [
            (run / "metrics.jsonl", damage_metrics),
            (run / "config.toml", damage_config),
            (run / "environment.json", damage_environment),
            (run / "best.safetensors", forge_checkpoint),
            (newest, forge_checkpoint),
            *((file, None) for file in (run / "metrics.jsonl", run / "config.toml", run / "best.safetensors", newest)),
        ]
    )
    if change is None:
        path.write_bytes(damaged_bytes(some, path.read_bytes()))
    else:
        change(some, path)
    return f"{path.name}, {change.__name__ if change else 'bytes'}"


def check(original: Path, folder: Path, seed: int) -> tuple[int, str]:
    """Try one damage with one verb. Gives the exit status, and what was said."""
    some = random.Random(seed)
    run, out = folder / "run", folder / "out"
    for path in (run, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(original, run)
    out.mkdir()
    done = damage(some, run)
    arguments = some.choice(verbs(run, out))
    with quiet() as (_, err):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code
        except BaseException as error:
            raise AssertionError(
                f"damage {seed}: {done}: aevb {arguments[0]}: {type(error).__name__}: {error}"
            ) from error
    said = err.getvalue()
    last = said.splitlines()[-1:] or [""]
    assert status in (0, 1, 2), f"damage {seed}: {done}: aevb {arguments[0]}: {status}"
    told = status == 0 or re.match(r"aevb( [\w-]+)?: error: .", last[0])
    assert told and len(last[0]) < 4000, (
        f"damage {seed}: {done}: aevb {arguments[0]} ended with {status}: {said[-300:]!r}"
    )
    return status, f"{done}: {arguments[0]}: {last[0]}"


@pytest.mark.parametrize(
    ("before", "after", "verb", "message"),
    [
        ('optimizer = "adam"', 'optimizer = "x"', "train", "optimizer must be one of adagrad, .*, got 'x'"),
        ("batch_size = 100", "batch_size = 0", "train", "batch_size must be an integer, at least 1, got 0"),
        ('data = "', 'data = ""  # "', "evaluate", "data must be .*, got ''"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_file(original, tmp_path, before, after, verb, message):
    shutil.copytree(original, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    text = config.read_text()
    assert before in text
    config.write_text(text.replace(before, after))
    with quiet() as (_, err):
        assert (
            main({"train": ["train", "--resume", "--out"], "evaluate": ["evaluate"]}[verb] + [str(config.parent)]) == 1
        )
    assert re.fullmatch(f"aevb: error: {re.escape(str(config))}: {message}", err.getvalue().splitlines()[-1])


@pytest.mark.parametrize("seed", range(QUICK))
def test_any_damage_ends_in_a_sentence(original, tmp_path, seed):
    check(original, tmp_path, seed)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", "[1,2]", "in line 2: expected an object, got a list"),
        ("metrics.jsonl", '{"event":"evaluation"}', "in line 2: the evaluation has no samples_seen"),
        ("metrics.jsonl", "[" * 100_000, "in line 2: it is nested too deeply"),
        ("metrics.jsonl", "{", "in line 2: Expecting property name"),
        (
            "metrics.jsonl",
            '{"event":"log","samples_seen":1,"steps":-1,"seconds":1}',
            "in line 2: steps must be a whole",
        ),
        (
            "metrics.jsonl",
            '{"event":"log","samples_seen":1,"steps":1,"seconds":NaN}',
            "in line 2: seconds must be a num",
        ),
        (
            "metrics.jsonl",
            '{"event":"resumed","samples_seen":1,"steps":1,"seconds":1,"changed":{"lr":[1]}}',
            "in line 2: changed must be an object",
        ),
        ("config.toml", 'learner = "x"', "learner must be one of aevb, .*, got 'x'"),
        ("config.toml", "score = 3", "score must be one of bound, marginal, got 3"),
        ("config.toml", "lr = 'x'", "lr must be a number, got 'x'"),
        ("config.toml", "seed = nan", "seed must be a whole number, got nan"),
        ("config.toml", "model = 3", "model is no table, but 3"),
        ("config.toml", "[model]\narchitecture = 'x'", "architecture must be one of mlp, .*, got 'x'"),
        ("config.toml", "a = " + "[" * 100_000, "it is nested too deeply|maximum"),
        ("config.toml", "a = {b = 1}", "a cannot be an object"),
        ("environment.json", "[]", "it is no table, but a list"),
        ("environment.json", "[" * 100_000, "it is nested too deeply"),
    ],
    ids=lambda value: value[:30],
)
def test_what_is_read_of_a_run_is_checked_and_named(tmp_path, file, text, message):
    (tmp_path / "config.toml").write_text("")
    (tmp_path / file).write_text(f'{{"event": "another"}}\n{text}\n' if file == "metrics.jsonl" else text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / file))} is damaged:? ?{message}"):
        open_run(tmp_path)


def test_what_was_kept_of_a_run_is_computed_once_more(tmp_path, original, monkeypatch):
    monkeypatch.chdir(original.parent)
    run, counted = open_run(original), []

    def score(model, x, progress):
        counted.append(len(x))
        return {"mean": 1.5}

    path = original / "a.json"
    for text in ("[1]", "{", '{"steps": "x"}', '{"steps": 10, "mean": null}', "[" * 100_000, "\xff"):
        path.write_text(text, encoding="latin-1")
        assert scored_once(run, "a", score) == scored_once(run, "a", score) == {"mean": 1.5}
    assert len(counted) == 6
    path.unlink()


if __name__ == "__main__":
    import tempfile
    import traceback

    with tempfile.TemporaryDirectory() as place:
        whole = make_run(Path(place))
        failed, ended = 0, {0: 0, 1: 0, 2: 0}
        first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        for number in range(first, first + int(sys.argv[1])):
            try:
                status, told = check(whole, Path(place) / "tried", number)
                ended[status] += 1
                print(number, told[:300], flush=True) if "-v" in sys.argv else None
            except AssertionError as error:
                failed += 1
                print(error, flush=True)
                if error.__cause__:
                    traceback.print_tb(error.__cause__.__traceback__, -2)
        print(f"{failed} failed; by exit status: {ended}")
        raise SystemExit(bool(failed))
