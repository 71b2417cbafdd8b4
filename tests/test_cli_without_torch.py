"""What `aevb` says without PyTorch: help, and every mistake that can be found without it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import aevb_ext
from aevb_ext._extras import missing

pytestmark = pytest.mark.once("what is said before PyTorch is imported")

ROOT = Path(aevb_ext.__file__).parents[1]

# As the console script starts it, for each line of words. A PyTorch that cannot be imported stands in the path.
PROGRAM = """
import contextlib, io, json, sys
from aevb_command import main

sys.modules.update(dict.fromkeys({missing}))
told = []
for words in json.loads(sys.stdin.read()):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["aevb", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main()
        except SystemExit as ended:
            status = ended.code
    told.append([status, out.getvalue(), err.getvalue()])
print(json.dumps({{"told": told, "modules": list(sys.modules)}}))
"""
RUN_CONFIG = 'data = "digits"\nlearner = "aevb"\n'


def run(folder, lines, absent=()):
    """The status, standard output and standard error of each line of words, and the modules that were imported."""
    fake = folder.parent / "fake"
    fake.mkdir(exist_ok=True)
    (fake / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(missing=list(absent))],
        cwd=folder,
        env={"PYTHONPATH": f"{fake}:{ROOT}", "PATH": "", "COLUMNS": "80"},
        input=json.dumps(lines),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["told"], found["modules"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that mistakes can be made with."""
    path = tmp_path_factory.mktemp("without") / "here"
    for name, config in (
        ("run", RUN_CONFIG),
        ("mcem", RUN_CONFIG.replace("aevb", "mcem")),
        ("moved", 'data = "/none/x.npy"\n'),
        ("damaged", "learner = 5\n"),
    ):
        (path / name).mkdir(parents=True)
        (path / name / "config.toml").write_text(config)
        (path / name / "best.safetensors").touch()
    (path / "begun").mkdir()
    (path / "begun" / "config.toml").write_text(RUN_CONFIG)
    (path / "empty").mkdir()
    (path / "file.txt").touch()
    (path / "unknown.toml").write_text("batchsize = 5\n")
    (path / "kind.toml").write_text('lr = "0.1"\n')
    (path / "range.toml").write_text("batch_size = 0\n")
    (path / "broken.toml").write_text("lr = \n")
    return path


TRAIN = ("train", "--out", "new")
USAGE, REFUSED = 2, 1
MISTAKES = [
    # A verb, a flag, a value.
    ((), USAGE, "usage: aevb"),
    (("trian",), USAGE, "there is no 'trian': train? there are train, held-out, "),
    (("train", "--latnt", "5"), USAGE, "aevb train: error: there is no argument --latnt: --latent?"),
    (("train", "--latent", "five"), USAGE, "argument --latent: expected a whole number of at least 1"),
    (("train", "mnist"), USAGE, "'mnist' is not expected here: a value stands after its flag (--data mnist)"),
    (("report", "run", "begun"), USAGE, "'begun' is not expected here: a value stands after its flag"),
    (("train", "--lr", "small"), USAGE, "argument --lr: invalid float value: 'small'"),
    (("train", "--learner", "aveb"), USAGE, "argument --learner: there is no 'aveb': aevb? there are aevb, "),
    (("evaluate", "run", "--estimator", "marginl"), USAGE, "there is no 'marginl': marginal?"),
    (("paper", "figure9"), USAGE, "there is no 'figure9'"),
    (("sample", "run"), USAGE, "the following arguments are required: --out"),
    (("evaluate",), USAGE, "the following arguments are required: RUN"),
    (("sample", "run", "--out", "x.jpg"), USAGE, "--out: expected FILE.png or FILE.npy or FILE.npz, got 'x.jpg'"),
    (("sample", "run", "--out", "none/x.png"), USAGE, "there is no folder none to write x.png into"),
    # A setting out of range, or that does not go with another.
    ((*TRAIN, "--lr", "0"), REFUSED, "--lr must be a positive number, got 0.0"),
    ((*TRAIN, "-M", "0"), REFUSED, "-M must be an integer, at least 1, got 0"),
    ((*TRAIN, "--beta", "2", "--estimator", "iwae"), REFUSED, "--beta, --beta-warmup and --free-bits need"),
    ((*TRAIN, "--learner", "mcem"), REFUSED, 'set score to "marginal"'),
    ((*TRAIN, "--epochs", "3", "--samples-seen", "5"), REFUSED, "--epochs and --samples-seen were both given"),
    ((*TRAIN, "--epochs", "nan"), REFUSED, "--epochs must be a positive number of passes"),
    (("train", "--resume"), REFUSED, "--resume needs --out"),
    ((*TRAIN, "--data", "mnist", "--download"), REFUSED, "--download needs --data-dir"),
    # A configuration file.
    ((*TRAIN, "--config", "none.toml"), REFUSED, "--config: there is no file none.toml"),
    ((*TRAIN, "--config", "empty"), REFUSED, "--config: there is no file empty"),
    ((*TRAIN, "--config", "broken.toml"), REFUSED, "--config: broken.toml is not a TOML file"),
    ((*TRAIN, "--config", "unknown.toml"), REFUSED, "unknown.toml has the unknown key 'batchsize': batch_size?"),
    ((*TRAIN, "--config", "kind.toml"), REFUSED, "kind.toml: lr must be a number, got '0.1'"),
    ((*TRAIN, "--config", "range.toml"), REFUSED, "range.toml: batch_size must be an integer, at least 1, got 0"),
    # Data that is not there.
    (
        (*TRAIN, "--data", "cifar"),
        REFUSED,
        "--data must be the path of a folder of images, or a .npy, .npz or .h5ad file",
    ),
    ((*TRAIN, "--data", "none/x.npy"), REFUSED, "there is no none/x.npy: expected a folder of images"),
    (
        (*TRAIN, "--data", "./file.txt"),
        REFUSED,
        "file.txt is neither a folder of images nor a .npy, .npz or .h5ad file",
    ),
    ((*TRAIN, "--data", "mnist"), REFUSED, "MNIST is not there: no --data-dir was given"),
    ((*TRAIN, "--data", "mnist", "--data-dir", "none"), REFUSED, "was looked for in none/mnist and none"),
    (("held-out", "--out", "new", "--data", "mnist"), REFUSED, "MNIST is not there"),
    (("paper", "figure4", "--data-dir", "none"), REFUSED, "Frey Face is not there"),
    (("evaluate", "moved"), REFUSED, "there is no /none/x.npy: expected"),
    (("evaluate", "run", "--data", "none.npy"), REFUSED, "there is no none.npy: expected"),
    # A run that is none.
    (("evaluate", "none"), REFUSED, "there is no checkpoint none"),
    (("sample", "empty", "--out", "x.png"), REFUSED, "there is no checkpoint in empty: neither best.safetensors nor"),
    (("export", "begun"), REFUSED, "there is no checkpoint in begun"),
    (("report", "none"), REFUSED, "there is no run none"),
    (("compare", "run", "empty"), REFUSED, "empty is not of a run: empty has no config.toml"),
    (("compare", "damaged"), REFUSED, "damaged/config.toml is damaged: learner must be one of aevb, "),
    (("probe", "mcem"), REFUSED, "mcem was trained by mcem, which trains no encoder"),
    (("evaluate", "mcem"), REFUSED, "--estimator b needs an encoder, and the run's learner mcem trains none"),
    (("evaluate", "run", "--estimator", "ais", "--repeats", "2"), REFUSED, "--repeats is for the bound"),
    # A folder to write.
    (("train", "--out", "run"), REFUSED, "--out: the folder run is not empty; give a new one"),
    (("train", "--out", "file.txt"), REFUSED, "--out: file.txt is a file, expected a new or an empty folder"),
    (("train", "--out", "file.txt/new"), REFUSED, "--out: the folder cannot be written: Not a directory"),
    (("train", "--out", "none", "--resume"), REFUSED, "--resume: there is no folder none"),
]


@pytest.fixture(scope="module")
def told(folder):
    if absent := missing("train"):
        pytest.skip(f"{absent[0]} is not installed")
    lines = [words for words, _, _ in MISTAKES]
    return dict(zip(lines, run(folder, lines)[0], strict=True))


@pytest.mark.parametrize(
    ("words", "status", "message"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_a_mistake_is_said_without_torch(told, words, status, message):
    found, out, err = told[words]
    assert found == status and out == ""
    if words:
        assert message in err.splitlines()[-1] and "error: " in err.splitlines()[-1]
    else:
        assert err.startswith(message)


def test_a_mistake_leaves_nothing_behind(told, folder):
    assert not any((folder / name).exists() for name in ("new", "none", "paper", "runs", "x.png"))
    assert {path.name for path in (folder / "run").iterdir()} == {"best.safetensors", "config.toml"}


def test_help_and_version_import_little(folder):
    """A count of modules, which a busy machine does not change: the standard library's and ours."""
    verbs = ["train", "evaluate", "sample", "paper", "doctor"]
    lines = [["--help"], ["--version"], *([verb, "--help"] for verb in verbs)]
    (whole, version, *each), modules = run(folder, lines)
    assert all(status == 0 and err == "" for status, _, err in (whole, version, *each))
    assert version[1] == f"aevb {aevb_ext.__version__}\n"
    heavy = {"numpy", "rich", "tqdm", "matplotlib", "PIL", "pooch", "safetensors", "torch"}
    assert not heavy & {name.partition(".")[0] for name in modules}
    assert len(modules) < 250


def test_an_extra_that_is_missing_is_named(folder):
    lines = [["train"], ["report", "run"], ["train", "--tensorboard"], ["train", "--help"]]
    (train, report, _, whole), _ = run(folder, lines, absent=["rich", "PIL"])
    for verb, (status, out, err) in (("train", train), ("report", report)):
        assert (status, out) == (1, "")
        why = "needs the extra 'train', of which pillow, rich are not installed here: type `pip install "
        assert err.startswith(f"aevb: error: aevb {verb} {why}") and "[train]" in err and err.count("\n") == 1
    assert whole[0] == 0
    (_, (status, _, err)), _ = run(folder, [["--version"], ["train", "--tensorboard"]], absent=["tensorboard"])
    assert status == 1 and "--tensorboard needs the extra 'tensorboard', of which tensorboard is not" in err


def test_a_package_that_is_missing_is_named(folder):
    """PyTorch itself, and what no extra names."""
    ((status, _, err),), _ = run(folder, [["doctor"]], absent=["torch"])
    assert status == 1 and err.startswith("aevb: error: the package torch is not installed; `pip install ")


def test_a_verb_that_needs_torch_imports_the_package():
    """Operators and all: the doctor runs each of them."""
    program = "import sys; from aevb_command import main; sys.argv[1:] = ['doctor']; status = main()\n"
    program += "import aevb_ext; print(sys.modules['aevb_ext'] is aevb_ext, aevb_ext.gaussian_kl); sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # 1: it found a fault of this machine
    assert done.stdout.splitlines()[-1].startswith("True <function gaussian_kl ")
