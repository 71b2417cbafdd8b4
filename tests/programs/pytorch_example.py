"""The variational autoencoder of PyTorch's examples (github.com/pytorch/examples, vae/main.py), written anew.

The same networks, options, loss and messages, on the embedded digits instead of a download of MNIST; pictures are
saved as tensors. docs/pytorch-example.diff applies to this and to the original.
"""

import argparse
from pathlib import Path

import torch
import torch.utils.data
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from aevb_ext.data import load

parser = argparse.ArgumentParser(description="A variational autoencoder of handwritten digits")
parser.add_argument("--batch-size", type=int, default=128, help="of training and of testing")
parser.add_argument("--epochs", type=int, default=10, help="how often the training data are gone through")
parser.add_argument("--no-accel", action="store_true", help="stay on the CPU")
parser.add_argument("--seed", type=int, default=1, help="of the weights, the batches and the noise")
parser.add_argument("--log-interval", type=int, default=10, help="batches from one message to the next")
args = parser.parse_args()

torch.manual_seed(args.seed)
use_accel = not args.no_accel and torch.accelerator.is_available()
device = torch.accelerator.current_accelerator() if use_accel else torch.device("cpu")


def digits(images):
    """As MNIST comes: [N, 1, 28, 28] in [0, 1], and labels that nobody looks at."""
    images = images.view(-1, 1, 32, 32)[..., 2:-2, 2:-2] / 16
    return TensorDataset(images, torch.zeros(len(images)))


data = load("digits")
train_loader = DataLoader(digits(data.train), batch_size=args.batch_size, shuffle=True)
test_loader = DataLoader(digits(data.test), batch_size=args.batch_size)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden_of_x = nn.Linear(784, 400)
        self.mu = nn.Linear(400, 20)
        self.logvar = nn.Linear(400, 20)
        self.hidden_of_z = nn.Linear(20, 400)
        self.pixels = nn.Linear(400, 784)

    def encode(self, x):
        hidden = F.relu(self.hidden_of_x(x))
        return self.mu(hidden), self.logvar(hidden)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def decode(self, z):
        return torch.sigmoid(self.pixels(F.relu(self.hidden_of_z(z))))

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, 784))
        z = self.reparameterize(mu, logvar)
        return self.decode(z), mu, logvar


model = VAE().to(device)
optimizer = optim.Adam(model.parameters(), lr=1e-3)


def loss_function(recon_x, x, mu, logvar):
    """Minus the bound, summed over the pixels and the batch (Kingma & Welling 2014, eq. 10)."""
    reconstruction = F.binary_cross_entropy(recon_x, x.view(-1, 784), reduction="sum")
    divergence = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return reconstruction + divergence


def train(epoch):
    model.train()
    train_loss = 0
    for i, (data, _) in enumerate(train_loader):
        data = data.to(device)
        optimizer.zero_grad()
        recon_batch, mu, logvar = model(data)
        loss = loss_function(recon_batch, data, mu, logvar)
        loss.backward()
        train_loss += loss.item()
        optimizer.step()
        if i % args.log_interval == 0:
            print(f"Train Epoch: {epoch} batch {i} of {len(train_loader)}\tLoss: {loss.item() / len(data):.6f}")
    print(f"====> Epoch: {epoch} Average loss: {train_loss / len(train_loader.dataset):.4f}")


def test(epoch):
    model.eval()
    test_loss = 0
    with torch.no_grad():
        for i, (data, _) in enumerate(test_loader):
            data = data.to(device)
            recon_batch, mu, logvar = model(data)
            test_loss += loss_function(recon_batch, data, mu, logvar).item()
            if i == 0:
                pictures = torch.cat([data[:8], recon_batch.view(-1, 1, 28, 28)[:8]])
                torch.save(pictures.cpu(), results / f"reconstruction_{epoch}.pt")
    print(f"====> Test set loss: {test_loss / len(test_loader.dataset):.4f}")


if __name__ == "__main__":
    results = Path("results")
    results.mkdir(exist_ok=True)
    for epoch in range(1, args.epochs + 1):
        train(epoch)
        test(epoch)
        with torch.no_grad():
            sample = model.decode(torch.randn(64, 20).to(device)).cpu()
            torch.save(sample.view(64, 1, 28, 28), results / f"sample_{epoch}.pt")
