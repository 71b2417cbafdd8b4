"""A checkpoint gives back what was saved; any other file is refused with a message, and executes nothing."""

import json
import struct

import pytest
import torch
from torch import nn

from aevb_ext.models import VAE, BernoulliDecoder, make_model, mlp_vae
from aevb_ext.train import checkpoint, load_checkpoint, save_checkpoint

safetensors_torch = pytest.importorskip("safetensors.torch")


def model(seed=0, **kwargs):
    arguments = {"latent": 2, "hidden": 5} | kwargs
    return mlp_vae(6, generator=torch.Generator().manual_seed(seed), **arguments)


def by_hand(out=6):
    return VAE(nn.Linear(6, 4), BernoulliDecoder(nn.Linear(2, out)), 2)


def save(path, vae):
    save_checkpoint(path, vae, data="small", image_shape=(2, 3), samples_seen=5)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_what_was_saved_is_read(tmp_path):
    path = tmp_path / "c.safetensors"
    conv = make_model("conv", image_shape=(8, 8), latent=3, hidden=4, channels=2)
    for vae in (model(), model().double(), conv):
        save(path, vae)
        found = load_checkpoint(path)
        assert same(found.model, vae) and found.model.config == checkpoint.plain(vae.config)
        assert (found.data, found.image_shape, found.samples_seen) == ("small", (2, 3), 5)
        assert same(load_checkpoint(path, vae).model, vae)
    # Any reader of safetensors reads the weights.
    weights = safetensors_torch.load_file(path)
    assert all(torch.equal(weights[f"model.{name}"], t) for name, t in conv.state_dict().items())


def test_a_model_made_by_hand(tmp_path):
    vae, path = by_hand(), tmp_path / "c.safetensors"
    # Tied weights are two tensors in the file.
    vae.decoder.net.other = vae.decoder.net.weight
    save(path, vae)
    tied = by_hand()
    tied.decoder.net.other = tied.decoder.net.weight
    assert same(load_checkpoint(path, tied).model, vae)
    with pytest.raises(ValueError, match="that make_model did not make"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match=r"another model: decoder.net.weight is .*\[6, 2\], expected .*\[7, 2\]"):
        load_checkpoint(path, by_hand(7))
    with pytest.raises(ValueError, match=r"another model: encoder.weight is torch.float32 .*expected torch.float64"):
        load_checkpoint(path, by_hand().double())


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save(path, model())
    whole = path.read_bytes()
    for content in [whole[:n] for n in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1)] + [whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"c\.safetensors is truncated"):
            load_checkpoint(path)


def test_any_flipped_bit_is_found(tmp_path):
    path = tmp_path / "c.safetensors"
    save(path, model())
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    # Spaces after the header's JSON mean nothing.
    places = [*range(0, len(whole[:header].rstrip()), 7), *range(header, len(whole), 41)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"c\.safetensors is "):
            load_checkpoint(path)


class _Opens:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (str(self._path), "w")


def test_pickles_are_refused_and_not_executed(tmp_path):
    path, made = tmp_path / "c.safetensors", tmp_path / "made"
    for content in (_Opens(made), {"model.encoder.0.weight": _Opens(made)}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"c\.safetensors is truncated, damaged or not a checkpoint"):
            load_checkpoint(path)
    assert not made.exists()
    with open(path, "rb") as file:
        torch.load(file, weights_only=False)
    assert made.exists()


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    {
        "a header of 2^63 bytes": raw({}, length=1 << 63),
        "a header longer than the file": raw({}, length=1 << 20),
        "a header that is not JSON": raw(b"not JSON"),
        "nested without end": raw(b"[" * 100_000),
        "nothing": raw({}),
        "a tensor beyond the file": raw({"a": {**ENTRY, "data_offsets": [0, 1 << 40]}}, bytes(8)),
        "a shape that overflows": raw({"a": {**ENTRY, "shape": [1 << 62, 1 << 62]}}, bytes(8)),
        "a shape that is not its bytes": raw({"a": {**ENTRY, "shape": [3]}}, bytes(8)),
        "an unknown dtype": raw({"a": {**ENTRY, "dtype": "OBJ"}}, bytes(8)),
        "overlapping tensors": raw({"a": ENTRY, "b": ENTRY}, bytes(8)),
        "bytes that belong to nothing": raw({"a": ENTRY}, bytes(16)),
        "somebody else's tensors": raw({"a": ENTRY}, bytes(8)),
        "another format": raw({"__metadata__": {"format": "pt"}, "a": ENTRY}, bytes(8)),
    }.items(),
    ids=lambda item: item[0],
)
def test_hostile_headers_are_refused(tmp_path, content):
    path = tmp_path / "c.safetensors"
    path.write_bytes(content[1])
    with pytest.raises(ValueError, match=r"c\.safetensors is .*not a checkpoint"):
        load_checkpoint(path)


def forged(path, tensors, text):
    """A file of this format with a checksum that is right."""
    metadata = {"format": checkpoint.FORMAT, "content": text, "sha256": checkpoint._sha256(tensors, text)}
    path.write_bytes(safetensors_torch.save(tensors, metadata))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "mlp"},
        {"model": {"architecture": "os.system"}},
        {"model": {"architecture": "mlp", "x_dim": 6, "latent": 2, "hidden": 5, "generator": "x"}},
        {"model": {"architecture": "mlp", "x_dim": 6, "latent": 2, "hidden": 1 << 40}},
        {"model": {"architecture": "mlp", "x_dim": 6, "latent": 2, "hidden": "5"}},
        {"model": {"architecture": "deep-mlp", "x_dim": 6, "latent": 2, "hidden": 5, "depth": 1 << 30}},
        {"model": {"architecture": "mlp", "x_dim": 6, "latent": 3, "hidden": 5}},
        {"model": {}},
        {"data": None},
        {"data": {"name": 3, "image_shape": None}},
        {"data": {"name": "small", "image_shape": [2, "3"]}},
        {"samples_seen": -1},
        {"samples_seen": "many"},
    ],
    ids=str,
)
def test_forged_metadata_is_refused(tmp_path, change):
    path = tmp_path / "c.safetensors"
    save(path, model())
    tensors, content = checkpoint.read(path)
    forged(path, tensors, json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=r"c\.safetensors is "):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, "1" * 10_000], ids=lambda t: t[:5])
def test_metadata_that_is_no_object_is_refused(tmp_path, text):
    path = tmp_path / "c.safetensors"
    forged(path, checkpoint.model_tensors(model()), text)
    with pytest.raises(ValueError, match=r"c\.safetensors is not a checkpoint of this package: its metadata"):
        load_checkpoint(path)


def test_forged_tensors_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save(path, model())
    tensors, content = checkpoint.read(path)
    name = "model.encoder.0.weight"
    for change in ({name: tensors[name].int()}, {name: tensors[name][:1]}, {"model.more": tensors[name].clone()}):
        forged(path, {**tensors, **change}, json.dumps(content))
        with pytest.raises(ValueError, match=r"c\.safetensors is of another model"):
            load_checkpoint(path)
    forged(path, {k: t for k, t in tensors.items() if k != name}, json.dumps(content))
    with pytest.raises(ValueError, match=r"another model: encoder.0.weight is not there"):
        load_checkpoint(path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*c\.safetensors"):
        load_checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(FileNotFoundError, match=r"neither best\.safetensors"):
        load_checkpoint(tmp_path)


def test_a_folder_gives_its_best_model_else_its_newest(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for steps in (9, 10):
        save(tmp_path / "checkpoints" / f"{steps:09d}.safetensors", model(steps))
    assert same(load_checkpoint(tmp_path).model, model(10))
    save(tmp_path / "best.safetensors", model(3))
    assert same(load_checkpoint(tmp_path).model, model(3))
