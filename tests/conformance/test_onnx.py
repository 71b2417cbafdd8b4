"""The exported decoder in ONNX's own checker and runtime."""

import copy

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from aevb_ext.cli import main
from aevb_ext.export import ExportError, export_onnx
from aevb_ext.models import VAE, make_model
from aevb_ext.train import save_checkpoint


def learnt(*arguments, **options):
    model = make_model(*arguments, latent=3, hidden=8, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


MODELS = {
    "mlp": lambda: learnt("mlp", x_dim=54),
    "conv, Gaussian": lambda: learnt("conv", image_shape=(9, 6), likelihood="gaussian"),
    "one's own": lambda: VAE(nn.Linear(54, 6), nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 54)), latent=3),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_decoder_in_onnx(make, tmp_path):
    model = make()
    (path,) = export_onnx(model, tmp_path, torch.rand(2, 54))
    content = onnx.load(path)
    onnx.checker.check_model(content, full_check=True)
    # Operators of the standard alone.
    assert {node.domain for node in content.graph.node} == {""} and not content.functions
    sizes = content.graph.input[0].type.tensor_type.shape.dim
    assert (sizes[0].dim_param, sizes[1].dim_value) == ("batch", 3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 13):
        z = torch.randn(batch, 3)
        (mean,) = session.run(["mean"], {"z": z.numpy()})
        torch.testing.assert_close(torch.from_numpy(mean), model.decoder.mean(z).detach(), rtol=1e-4, atol=1e-5)


def test_a_decoder_that_comes_out_otherwise_is_refused(tmp_path, monkeypatch):
    convert = torch.onnx.export

    def slightly_wrong(module, *arguments, **options):
        module = copy.deepcopy(module)
        for parameter in module.parameters():
            parameter.data += 0.1
        return convert(module, *arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", slightly_wrong)
    with pytest.raises(ExportError, match=r"decoder\.onnx was not written: it deviates"):
        export_onnx(MODELS["mlp"](), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_all_three(tmp_path, capsys):
    save_checkpoint(tmp_path / "c.safetensors", MODELS["mlp"](), data="digits")
    assert main(["export", str(tmp_path / "c.safetensors"), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"encoder.pt2", "decoder.pt2", "decoder.onnx"}
    assert "decoder.onnx" in capsys.readouterr().out
