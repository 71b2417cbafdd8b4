"""pythae's VAE, BetaVAE and IWAE, and its trainer, with and without the patch."""

import contextlib
import inspect
import logging

import our_noise
import pytest
import torch
from patch_mistakes import check_mistakes
from pythae import models
from pythae.data.datasets import BaseDataset
from pythae.models import HVAE, IWAE, VAE, BetaVAE, BetaVAEConfig, HVAEConfig, IWAEConfig, VAEConfig, normalizing_flows
from pythae.models.base.base_utils import ModelOutput
from pythae.models.normalizing_flows import NFModel
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch._dynamo.testing import EagerAndRecordGraphs

from aevb_ext.integrations.pythae import patch

MODELS = {
    "VAE": (VAE, VAEConfig, {}),
    "BetaVAE": (BetaVAE, BetaVAEConfig, {"beta": 3.0}),
    "IWAE": (IWAE, IWAEConfig, {"number_samples": 5}),
}
LOSSES = ("mse", "bce")
DIM, LATENT, BATCH = (1, 6, 7), 4, 8
WITHOUT_AND_WITH = (contextlib.nullcontext, patch)
each_model = pytest.mark.parametrize("name", MODELS)
each_loss = pytest.mark.parametrize("loss", LOSSES)


@pytest.fixture(autouse=True)
def quiet():
    """Its loggers, each at a level of its own, print what they do."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def fed(monkeypatch):
    """The original draws our noise."""
    monkeypatch.setattr(torch, "randn_like", our_noise.randn_like)


def _model(name, loss):
    model, config, options = MODELS[name]
    torch.manual_seed(0)
    return model(config(input_dim=DIM, latent_dim=LATENT, reconstruction_loss=loss, **options))


def _images(count=BATCH, seed=1):
    return torch.rand(count, *DIM, generator=torch.Generator().manual_seed(seed))


def _loss_arguments(name, dtype=torch.float32, device="cpu"):
    """What forward hands to loss_function; some probabilities are 0 and 1, where the logarithm is clamped."""
    generator = torch.Generator().manual_seed(2)
    samples = (MODELS[name][2]["number_samples"],) if name == "IWAE" else ()
    recon = torch.rand(BATCH, *samples, *((42,) if samples else DIM), generator=generator, dtype=torch.float64)
    recon[0, ..., :1], recon[1, ..., :1] = 0, 1
    latents = [torch.randn(BATCH, *samples, LATENT, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [t.to(device, dtype) for t in (recon, _images(), *latents)]


def _value_and_gradients(model, arguments):
    recon, x, *latents = (t.detach().clone() for t in arguments)
    leaves = [t.requires_grad_() for t in (recon, *latents)]
    loss, recon_loss, kld = model.loss_function(leaves[0], x, *leaves[1:])
    return loss, recon_loss, kld, *torch.autograd.grad(loss, leaves, allow_unused=True)


class TestLossFunction:
    @each_model
    @each_loss
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_values_and_gradients(self, name, loss, dtype, device):
        model, arguments = _model(name, loss), _loss_arguments(name, dtype, device)
        original = _value_and_gradients(model, arguments)
        with patch() as p:
            ours = _value_and_gradients(model, arguments)
        # PyTorch divides by at least 1e-12, in float32 whatever the dtype, where a probability is 0 or 1. An importance
        # weight's relative error is the absolute one of its logarithm, here some hundreds.
        rtol = {torch.float64: 1e-8 if loss == "bce" else 1e-12, torch.float32: 1e-4 if name == "IWAE" else 1e-5}[dtype]
        torch.testing.assert_close(ours, original, rtol=rtol, atol=1e-12 if dtype == torch.float64 else 1e-5)
        assert p.calls.pop(f"{name}.loss_function") == 1 and not any(p.calls.values())

    @each_model
    @each_loss
    def test_autocast(self, name, loss, device):
        """The decoder's output and the means in half precision, as layers give them under autocast, the data not."""
        model, arguments = _model(name, loss), _loss_arguments(name, device=device)
        arguments = [t.bfloat16() if i in (0, 2, 4) else t for i, t in enumerate(arguments)]
        exact = _value_and_gradients(model, [t.double() for t in arguments])
        with patch() as p, torch.autocast(device.type, torch.bfloat16):
            ours = _value_and_gradients(model, arguments)
        for value, truth in zip(ours, exact, strict=True):
            if value is not None:
                eps = torch.finfo(value.dtype).eps
                assert value.dtype == (torch.float32 if value.dim() == 0 else value.dtype)
                torch.testing.assert_close(value.double(), truth, rtol=32 * eps, atol=32 * eps)
        assert p.calls[f"{name}.loss_function"] == 1

    @each_model
    def test_dtypes_that_binary_cross_entropy_refuses(self, name):
        model, arguments = _model(name, "bce"), _loss_arguments(name)
        arguments[0] = arguments[0].bfloat16()
        with pytest.raises(RuntimeError, match="Found dtype"):
            _value_and_gradients(model, arguments)
        with patch():
            assert all(v.isfinite().all() for v in _value_and_gradients(model, arguments) if v is not None)

    @each_model
    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_autocast_that_binary_cross_entropy_refuses(self, name):
        model, arguments = _model(name, "bce").cuda(), _loss_arguments(name, device="cuda")
        with torch.autocast("cuda"):
            with pytest.raises(RuntimeError, match="unsafe to autocast"):
                _value_and_gradients(model, arguments)
            with patch():
                assert _value_and_gradients(model, arguments)[0].isfinite()

    @each_model
    def test_a_small_squared_error_is_not_lost(self, name):
        """42 pixels off by 2e-5 are an error of 8.4e-9, where those of a log-likelihood's log(2 pi) are 77.2."""
        model, (recon, x, *latents) = _model(name, "mse"), _loss_arguments(name)
        x = (recon[:, 0] if name == "IWAE" else recon).reshape(x.shape)
        recon = recon[:, :1].expand(recon.shape) if name == "IWAE" else recon
        with patch():
            _, recon_loss, _ = model.loss_function(recon + 2e-5, x, *latents)
        exact = 0.5 * ((recon + 2e-5).reshape(BATCH, -1, 42).double() - x.reshape(BATCH, 1, 42).double()).square()
        torch.testing.assert_close(recon_loss.double(), exact.sum(-1).mean(), rtol=1e-5, atol=0)

    @each_model
    @each_loss
    def test_compiled_as_one_graph(self, name, loss):
        model, arguments = _model(name, loss), _loss_arguments(name)
        torch._dynamo.reset()
        recorder = EagerAndRecordGraphs()
        with patch():
            eager = model.loss_function(*arguments)
            compiled = torch.compile(model.loss_function, backend=recorder, fullgraph=True)(*arguments)
        torch.testing.assert_close(compiled, eager)
        (graph,) = recorder.graphs
        assert any("aevb_ext" in str(node.target) for node in graph.graph.nodes)


class TestSampleGauss:
    @each_model
    def test_sample_and_its_noise(self, name, fed, device):
        model = _model(name, "mse")
        mu, log_var = torch.randn(2, BATCH, 5, LATENT, generator=torch.Generator().manual_seed(3)).to(device)
        results = []
        for context in WITHOUT_AND_WITH:
            with context() as p:
                torch.manual_seed(4)
                leaves = mu.clone().requires_grad_(), log_var.exp().requires_grad_()
                z, eps = model._sample_gauss(*leaves)
                results.append((z, eps, *torch.autograd.grad(z.square().sum(), leaves)))
        torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
        z, eps = results[1][:2]
        torch.testing.assert_close(z, mu + log_var.exp() * eps, rtol=1e-5, atol=1e-5)
        assert not eps.requires_grad
        assert p.calls.pop(f"{name}._sample_gauss") == 1 and not any(p.calls.values())

    def test_a_model_that_inherits_it_and_gives_the_noise_on(self, fed):
        """HVAE has VAE's sampling, and the eps that it returns in its output."""
        torch.manual_seed(0)
        model = HVAE(HVAEConfig(input_dim=DIM, latent_dim=LATENT, reconstruction_loss="bce"))
        results = []
        for context in WITHOUT_AND_WITH:
            with context() as p:
                torch.manual_seed(5)
                output = model({"data": _images().round()})
                results.append((output.loss, output.z0, output.eps0))
        torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
        assert p.calls.pop("VAE._sample_gauss") == 1 and not any(p.calls.values())


def _train(name, loss, folder, amp=False, autocast=None, epochs=5):
    """The loss of each of 20 steps of pythae's trainer, and the trainer."""

    class Recording(BaseTrainer):
        def _optimizers_step(self, model_output):
            losses.append(model_output.loss.item())
            super()._optimizers_step(model_output)

    losses = []
    images = BaseDataset(_images(4 * BATCH).round(), torch.zeros(4 * BATCH))
    config = BaseTrainerConfig(
        output_dir=str(folder),
        num_epochs=epochs,
        learning_rate=1e-3,
        per_device_train_batch_size=BATCH,
        no_cuda=not amp,  # which turns AMP off
        amp=amp,
    )
    trainer = Recording(_model(name, loss), images, training_config=config)
    if autocast:
        trainer.amp_context = autocast
    trainer.train()
    return torch.tensor(losses), trainer


class TestTrainer:
    @each_model
    @each_loss
    def test_twenty_steps(self, name, loss, fed, tmp_path):
        """The same losses, to 1e-4 of themselves: rounding differences grow with the steps."""
        original, _ = _train(name, loss, tmp_path)
        with patch() as p:
            ours, _ = _train(name, loss, tmp_path)
        assert len(ours) == 20 and ours[-1] < ours[0]
        torch.testing.assert_close(ours, original, rtol=1e-4, atol=0)
        # One more of each for the trainer's check that the model runs.
        assert p.calls.pop(f"{name}.loss_function") == p.calls.pop(f"{name}._sample_gauss") == 21
        assert not any(p.calls.values())

    @pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")
    @each_model
    def test_amp_and_bce_together(self, name, fed, tmp_path):
        """pythae turns AMP off where there is BCE, and on where there is not; the patch leaves it on."""
        original, trainer = _train(name, "bce", tmp_path, amp=True, epochs=1)
        assert isinstance(trainer.amp_context, contextlib.nullcontext)
        assert isinstance(_train(name, "mse", tmp_path, amp=True, epochs=1)[1].amp_context, torch.autocast)
        with patch() as p:
            _, trainer = _train(name, "bce", tmp_path, amp=True, epochs=1)
            assert isinstance(trainer.amp_context, torch.autocast) and trainer.amp_context.device == "cuda"
            assert p.calls["BaseTrainer.__init__"] == 1
            _, trainer = _train(name, "bce", tmp_path, amp=False, epochs=1)
            assert isinstance(trainer.amp_context, contextlib.nullcontext)
            assert p.calls["BaseTrainer.__init__"] == 1
            # And it trains, on the CPU too, where pythae's own autocast does nothing.
            autocast = torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)
            bfloat16, _ = _train(name, "bce", tmp_path, amp=True, autocast=autocast)
        assert bfloat16.isfinite().all() and bfloat16[-1] < bfloat16[0]
        torch.testing.assert_close(bfloat16[0], original[0], rtol=1e-2, atol=0)

    @pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")
    def test_amp_stays_off_for_models_that_are_not_patched(self, tmp_path):
        model = HVAE(HVAEConfig(input_dim=DIM, latent_dim=LATENT, reconstruction_loss="bce"))
        config = BaseTrainerConfig(output_dir=str(tmp_path), amp=True)
        images = BaseDataset(_images().round(), torch.zeros(BATCH))
        with patch() as p:
            trainer = BaseTrainer(model, images, training_config=config)
        assert isinstance(trainer.amp_context, contextlib.nullcontext)
        assert p.calls["BaseTrainer.__init__"] == 0


class ForwardAlone(models.BaseAE):
    """The least that pythae asks of a model."""

    def __init__(self):
        super().__init__(models.BaseAEConfig(input_dim=DIM, latent_dim=LATENT))

    def forward(self, inputs, **_):
        x = inputs["data"]
        return ModelOutput(loss=(self.decoder(x[:, 0, 0, :LATENT]).reconstruction - x).square().mean())


def _own_loss():
    model = _model("VAE", "bce")
    model.loss_function = lambda recon, x, *latents: ((recon - x).square().mean(), torch.zeros(()), torch.zeros(()))
    return model


def _flow(model, config):
    prior = torch.distributions.MultivariateNormal(torch.zeros(42), torch.eye(42))
    return NFModel(prior, model(config(input_dim=(42,))))


# Models whose loss is none of the three that are replaced.
OTHER_MODELS = {
    "forward alone": ForwardAlone,
    "a loss of its own": _own_loss,
    "AE": lambda: models.AE(models.AEConfig(input_dim=DIM, latent_dim=LATENT)),
    "VAMP": lambda: models.VAMP(models.VAMPConfig(input_dim=DIM, latent_dim=LATENT, reconstruction_loss="bce")),
    "MAF": lambda: _flow(normalizing_flows.MAF, normalizing_flows.MAFConfig),
    "IAF": lambda: _flow(normalizing_flows.IAF, normalizing_flows.IAFConfig),
    "planar flow": lambda: _flow(normalizing_flows.PlanarFlow, normalizing_flows.PlanarFlowConfig),
    "radial flow": lambda: _flow(normalizing_flows.RadialFlow, normalizing_flows.RadialFlowConfig),
}


@pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")
@pytest.mark.parametrize("name", OTHER_MODELS)
@pytest.mark.parametrize("amp", [False, True])
def test_trainer_of_other_models(name, amp, tmp_path, fed):
    """To the bit, and with the autocast that pythae gives them."""
    images = BaseDataset(_images(2 * BATCH).round(), torch.zeros(2 * BATCH))
    config = BaseTrainerConfig(output_dir=str(tmp_path), num_epochs=1, per_device_train_batch_size=BATCH, amp=amp)

    def train():
        torch.manual_seed(0)
        trainer = BaseTrainer(OTHER_MODELS[name](), images, training_config=config)
        trainer.train()
        return type(trainer.amp_context), [p.detach().clone() for p in trainer.model.parameters()]

    original = train()
    with patch() as p:
        ours = train()
    assert ours[0] is original[0]
    torch.testing.assert_close(ours[1], original[1], rtol=0, atol=0 if name != "a loss of its own" else 1e-6)
    assert p.calls["BaseTrainer.__init__"] == 0


class TestPatch:
    def test_named_attributes_of_named_classes_alone(self):
        classes = {c for _, c in inspect.getmembers(models, inspect.isclass)} | {BaseTrainer}
        before = {c: dict(vars(c)) for c in classes}
        p = patch()
        changed = {f"{c.__name__}.{n}" for c in classes for n, v in before[c].items() if vars(c)[n] is not v}
        expected = {f"{name}.{method}" for name in MODELS for method in ("loss_function", "_sample_gauss")}
        assert changed == set(p.attributes) == expected | {"BaseTrainer.__init__"}
        p.undo()
        assert all(vars(c)[n] is v for c in classes for n, v in before[c].items())

    @each_model
    def test_no_more_graph_breaks(self, name):
        model, x = _model(name, "bce"), _images()
        breaks = []
        for context in WITHOUT_AND_WITH:
            with context():
                torch._dynamo.reset()
                breaks.append(torch._dynamo.explain(model)({"data": x}).graph_break_count)
        assert breaks[1] <= breaks[0]

    def test_mistakes(self, monkeypatch):
        check_mistakes(patch, "pythae", lambda: [dict(vars(c)) for c in (VAE, BetaVAE, IWAE, BaseTrainer)], monkeypatch)
