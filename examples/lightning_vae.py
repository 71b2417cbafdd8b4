"""A VAE on the operators of aevb_ext, trained by Lightning.

pip install lightning
python examples/lightning_vae.py
"""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from aevb_ext.data import load
from aevb_ext.nn import ELBO, BernoulliDecoder, GaussianPosterior


class LightningVAE(lightning.LightningModule):
    """q(z | x) and p(x | z) with one hidden layer each. A batch is x ``[B, x_dim]``, bytes as they lie in the data."""

    def __init__(self, x_dim: int, latent: int = 5, hidden: int = 200, x_scale: float = 1 / 255, lr: float = 1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.posterior = GaussianPosterior(
            nn.Sequential(nn.Linear(x_dim, hidden), nn.SiLU(), nn.Linear(hidden, 2 * latent))
        )
        self.decoder = BernoulliDecoder(nn.Sequential(nn.Linear(latent, hidden), nn.SiLU(), nn.Linear(hidden, x_dim)))
        self.elbo = ELBO()

    def terms(self, x):
        """The bound of each data point, and what it is made of."""
        x_scale = self.hparams.x_scale
        return self.elbo(x, self.posterior(x * x_scale), self.decoder, x_scale=x_scale)

    def training_step(self, x, _):
        terms = self.terms(x)
        # Lightning reads what is logged only when it prints: no step waits for the device.
        self.log_dict({"loss": terms.loss, "kl": terms.kl.mean()}, prog_bar=True)
        return terms.loss

    def on_train_batch_end(self, *_):
        self.elbo.step()  # for ELBO(warmup_steps=...)

    def validation_step(self, x, _):
        self.log("bound", self.terms(x).bound.mean(), prog_bar=True, batch_size=len(x))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)


def train(**options) -> tuple[LightningVAE, lightning.Trainer]:
    """Learn the embedded digits; ``options`` are those of Lightning's Trainer."""
    data = load("digits")
    model = LightningVAE(data.dim, x_scale=data.x_scale)
    trainer = lightning.Trainer(**options)
    trainer.fit(model, DataLoader(data.train, 100, shuffle=True), DataLoader(data.test, 100))
    return model, trainer


if __name__ == "__main__":
    train(max_epochs=50)
