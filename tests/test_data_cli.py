"""Users' data at the command line: what was found is printed, and labels are used."""

import numpy as np
import pytest

from aevb_ext.cli import main
from aevb_ext.cli.config import read_config

pytestmark = pytest.mark.once("what the command says of data is Python")

Image = pytest.importorskip("PIL.Image")

RNG = np.random.RandomState(0)
Y = np.arange(60) % 3
# Pictures of a label are bright in a row of their own.
X = RNG.randint(0, 60, (60, 4, 5)).astype(np.uint8)
X[np.arange(60), Y] += 180


def folder(path):
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        place = path / "mine" / ["cat", "dog", "owl"][y]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(place / f"{i:02}.png")
    return ["--data", str(path / "mine")], "mine: 4 x 5, uint8: train 54, test 6 (held out"


def flat(path):
    np.savez(path / "a.npz", faces=X.reshape(60, 20).astype(np.int64), ids=Y, labels=Y)
    options = ["--data", str(path / "a.npz"), "--array", "faces", "--image-shape", "4x5"]
    return options, "a.npz: 4 x 5, uint8: train 54 (faces), test 6 (held out of train: test_fraction 0.1)"


def medical(path):
    arrays = {"train_images": X[:40], "train_labels": Y[:40, None]}
    arrays |= {"val_images": X[40:50], "val_labels": Y[40:50, None], "test_images": X[50:], "test_labels": Y[50:, None]}
    np.savez(path / "m.npz", **arrays)
    return ["--data", str(path / "m.npz")], "train 40 (train_images), test 10 (test_images), valid 10 (val_images)"


@pytest.mark.parametrize("make", [folder, flat, medical])
def test_training_and_a_probe(tmp_path, capsys, make):
    options, told = make(tmp_path)
    run = str(tmp_path / "run")
    train = ["train", *options, "--out", run, "--samples-seen", "200", "--optimizer", "adam", "--hidden", "8"]
    assert main(train) == 0
    captured = capsys.readouterr()
    assert told in captured.err and "3 classes (0" in captured.err and told not in captured.out
    config = read_config(f"{run}/config.toml")
    assert config.get("image_shape") == ([4, 5] if make is flat else None)
    # The configuration says how the data is loaded again.
    assert main(["probe", run]) == 0
    captured = capsys.readouterr()
    assert told in captured.err
    pixels = captured.out.splitlines()[1]
    assert pixels.startswith("pixels: accuracy 1.0000") and "20 features" in pixels
    assert main(["train", "--config", f"{run}/config.toml", "--out", run, "--resume"]) == 0


@pytest.mark.parametrize(
    "options, complaint",
    [
        (
            ["--data", ""],
            "data must be the path of a folder of images, or a .npy, .npz or .h5ad file, or one of digits",
        ),
        (["--image-shape", "4by5"], "expected HEIGHTxWIDTH, 3xHEIGHTxWIDTH or HEIGHTxWIDTHx3, got '4by5'"),
        (["--image-shape", "4x6"], "--image-shape must have as many numbers as a data point of "),
        (["--image-shape", "20"], "--image-shape must be (height, width)"),
        (["--array", "Faces"], "--array must be one of faces, ids, labels, which "),
        ([], "a.npz has the arrays faces, ids, labels; expected one,"),
    ],
    ids=lambda options: "-".join(options) if isinstance(options, list) else "",
)
def test_what_is_no_data_is_an_error(tmp_path, capsys, options, complaint):
    flat(tmp_path)
    given = ["--data", str(tmp_path / "a.npz"), "--array", "faces"] if "--image-shape" in options else []
    given = given or ([] if "--data" in options else ["--data", str(tmp_path / "a.npz")])
    try:
        status = main(["train", *given, *options, "--out", str(tmp_path / "run")])
    except SystemExit as error:
        status = error.code
    assert status in (1, 2)
    assert complaint in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_shape_in_a_configuration_is_a_list(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('image_shape = [3, 4, 5]\narray = "x"\n')
    assert read_config(path) == {"image_shape": [3, 4, 5], "array": "x"}
    for value in ('"3x4"', "[3.0, 4]", "12"):
        path.write_text(f"image_shape = {value}\n")
        with pytest.raises(ValueError, match="image_shape must be a list of whole numbers"):
            read_config(path)
