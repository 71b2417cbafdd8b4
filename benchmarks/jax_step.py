"""The training step in JAX as its documentation recommends: a jitted function, lax.scan over the steps, donation.

Imported only where JAX is installed (pip install "jax[cpu]", or "jax[cuda13]").
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random


def trainer(parameters, data, batch, lr, decay):
    """run(steps) -> the mean bound of the last step. `parameters` are arrays [(weight [out, in], bias [out]), ...]."""
    layers = [(jnp.asarray(np.asarray(w).T), jnp.asarray(b)) for w, b in parameters]
    state = (layers, jax.tree.map(jnp.zeros_like, layers), random.key(0))
    data = jnp.asarray(np.asarray(data))

    def loss(layers, x, noise):
        (w1, b1), (w2, b2), (w3, b3), (w4, b4) = layers
        mu, logvar = jnp.split(jnp.tanh(x @ w1 + b1) @ w2 + b2, 2, axis=1)
        z = mu + jnp.exp(0.5 * logvar) * random.normal(noise, mu.shape)
        logits = jnp.tanh(z @ w3 + b3) @ w4 + b4
        # log(1 + e^l) as max(l, 0) + log(1 + e^-|l|): faster here than nn.softplus, with the same values.
        softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
        kl = -0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar))
        return jnp.sum(softplus - x * logits) + kl

    def update(parameter, sum_of_squares, gradient):
        gradient = gradient + decay * parameter if parameter.ndim > 1 else gradient
        sum_of_squares = sum_of_squares + gradient**2
        return parameter - lr * gradient / (jnp.sqrt(sum_of_squares) + 1e-10), sum_of_squares

    def step(state, _):
        layers, sums, key = state
        key, rows, noise = random.split(key, 3)
        x = data[random.randint(rows, (batch,), 0, len(data))] * np.float32(1 / 255)
        value, gradients = jax.value_and_grad(loss)(layers, x, noise)
        pairs = [
            [update(p, s, g) for p, s, g in zip(*layer, strict=True)]
            for layer in zip(layers, sums, gradients, strict=True)
        ]
        layers = [tuple(p for p, _ in layer) for layer in pairs]
        sums = [tuple(s for _, s in layer) for layer in pairs]
        return (layers, sums, key), -value / batch

    scan = jax.jit(lambda state, steps: lax.scan(step, state, length=steps), static_argnums=1, donate_argnums=0)

    def run(steps):
        nonlocal state
        state, bounds = scan(state, steps)
        return bounds[-1].block_until_ready()

    return run


def products(parameters, batch):
    """run() does a step's matrix products alone: four forwards, four gradients of weights, three of activations."""
    random_key = random.key(0)
    weights = [jnp.asarray(np.asarray(w).T) for w, _ in parameters]
    inputs = [random.normal(random_key, (batch, w.shape[0])) for w in weights]
    outputs = [random.normal(random_key, (batch, w.shape[1])) for w in weights]

    @jax.jit
    def all_of_them(weights, inputs, outputs):
        forward = [i @ w for i, w in zip(inputs, weights, strict=True)]
        of_weights = [i.T @ o for i, o in zip(inputs, outputs, strict=True)]
        of_inputs = [o @ w.T for o, w in zip(outputs[1:], weights[1:], strict=True)]
        return forward, of_weights, of_inputs

    return lambda: jax.block_until_ready(all_of_them(weights, inputs, outputs))
