"""The backward of sums over many samples: each block is computed again, as in activation checkpointing.

By then the normalised weights are known. Only the last block is kept from the first pass.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node
from torch.distributions import Distribution

from .stream import Terms, Totals

__all__ = ["recorded"]


@torch.compiler.disable
def recorded(
    terms: Callable[[int, int], Terms], blocks: list[tuple[int, int]], sources: tuple[object, ...], weighted: bool
) -> tuple[Tensor, ...]:
    """The differentiable result of :func:`~.stream.streamed`; blocks are (first sample, number), in order."""
    totals, state = Totals(weighted), _State()
    with torch.no_grad(), state.without_autocast_cache():
        for each in blocks[:-1]:
            totals.add(terms(*each)[0])
    begun = _number(torch.zeros((), requires_grad=True).clone().grad_fn)
    kept = terms(*blocks[-1])
    with torch.no_grad():
        totals.add(kept[0])
    results = tuple(t.detach() for t in totals.results())
    outputs = [t for t in kept[0] if t.requires_grad]
    if not outputs:
        return results
    inputs = _inputs(outputs, _tensors(sources), begun)
    recomputation = _Recomputation(terms, blocks, kept, totals, state, _is_any_of_another(inputs))
    streamed_results: tuple[Tensor, ...] = _Streamed.apply(recomputation, results, *inputs)
    return streamed_results


class _Recomputation:
    """The state that the backward needs beside tensors."""

    def __init__(
        self,
        terms: Callable[[int, int], Terms],
        blocks: list[tuple[int, int]],
        kept: Terms,
        totals: Totals,
        state: "_State",
        nested: bool,
    ):
        self.terms, self.blocks, self.state, self.nested = terms, blocks, state, nested
        self.kept: Terms | None = kept
        self.log_sum = totals.log_sum if totals.weighted else None

    def evaluated(self) -> Iterator[Terms]:
        """Compute the terms of one block after another, with their graph."""
        kept, self.kept = self.kept, None
        blocks = self.blocks
        if kept is not None:  # it is None in a second backward
            blocks = blocks[:-1]
            yield kept
            del kept
        with self.state.restored():
            for each in blocks:
                yield self.terms(*each)

    def cotangents(self, terms: Terms, given: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """A block's values (and its port) that have a graph, and their cotangents."""
        values, port = terms
        of_sums = given if self.log_sum is None else given[1:]
        cotangents = [g.expand_as(v) for g, v in zip(of_sums, values, strict=True)]
        pairs = list(zip(values, cotangents, strict=True))
        if self.log_sum is not None:
            weights = (values[0].detach() - values[1].detach() - self.log_sum).exp()
            of_log_weights = given[0] * weights
            pairs[0] = values[0], cotangents[0] + of_log_weights
            pairs[1] = values[1], cotangents[1] - of_log_weights
            if port is not None:
                pairs.append((port, weights))
        pairs = [(value, g) for value, g in pairs if value.requires_grad]
        return [value for value, _ in pairs], [g for _, g in pairs]


class _Streamed(torch.autograd.Function):
    """Returns the results of the first pass; its backward gives the sum of all blocks' gradients to the inputs."""

    @staticmethod
    def forward(
        ctx: Any, recomputation: _Recomputation, results: tuple[Tensor, ...], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.recomputation = recomputation
        ctx.save_for_backward(*inputs)  # so that autograd notices an input that was changed in place
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs, recomputation = ctx.saved_tensors, ctx.recomputation
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        sums: list[Tensor | None] = [None] * len(inputs)
        owned = [False] * len(inputs)
        with torch.enable_grad():
            for terms in recomputation.evaluated():
                outputs, given = recomputation.cotangents(terms, cotangents)
                of = [inputs[i] for i in wanted]
                with _without_hooks(inputs), _ending_at(inputs if recomputation.nested else ()):
                    gradients = torch.autograd.grad(
                        outputs, of, given, allow_unused=True, retain_graph=recomputation.nested
                    )
                del terms, outputs, given
                with torch.no_grad():
                    for i, g in zip(wanted, gradients, strict=True):
                        if g is None:
                            continue
                        before = sums[i]
                        if before is None:  # a gradient from autograd may share memory
                            sums[i] = g
                        elif owned[i]:
                            before.add_(g)
                        else:
                            sums[i], owned[i] = before + g, True
                del gradients
        return None, None, *sums


class _State:
    """What a block depends on beside tensors: the present states of the generators and of autocast."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._device = None
        if torch.cuda.is_available() and torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
            self._device = torch.cuda.get_rng_state()
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        self._autocast = [(d, torch.get_autocast_dtype(d)) for d in devices if torch.is_autocast_enabled(d)]

    @contextlib.contextmanager
    def without_autocast_cache(self) -> Iterator[None]:
        """A context without autocast's cache: a cast that was cached without gradients would have none here."""
        with contextlib.ExitStack() as stack:
            for device, dtype in self._autocast:
                stack.enter_context(torch.autocast(device, dtype, cache_enabled=False))
            yield

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """A context with the saved state."""
        with torch.random.fork_rng(devices=[] if self._device is None else None), self.without_autocast_cache():
            torch.set_rng_state(self._cpu)
            if self._device is not None:
                torch.cuda.set_rng_state(self._device)
            yield


@contextlib.contextmanager
def _without_hooks(tensors: Iterable[Tensor]) -> Iterator[None]:
    """A context without the user's tensor hooks: they are called with the whole gradient, not with each block's."""
    hooks = [(t._backward_hooks, dict(t._backward_hooks)) for t in tensors if t._backward_hooks]
    for registered, _ in hooks:
        registered.clear()
    try:
        yield
    finally:
        for registered, those in hooks:
            registered.update(those)


@contextlib.contextmanager
def _ending_at(tensors: Iterable[Tensor]) -> Iterator[None]:
    """A context in which gradients stop at these tensors; autograd then passes their sum further back, once."""
    nodes = {t.grad_fn for t in tensors if t.grad_fn is not None}
    handles = [node.register_prehook(lambda cotangents: (None,) * len(cotangents)) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(source: Any) -> Iterator[Tensor]:
    """The tensors in tuples, distributions and functions' closures, without the parameters of modules."""
    match source:
        case Tensor():
            yield source
        case tuple() | list():
            for each in source:
                yield from _tensors(each)
        case Distribution():
            yield from _tensors(list(vars(source).values()))
        case functools.partial():
            yield from _tensors([source.func, *source.args, *source.keywords.values()])
        case _ if getattr(source, "__closure__", None):
            yield from _tensors([cell.cell_contents for cell in source.__closure__])


def _inputs(outputs: list[Tensor], candidates: Iterator[Tensor], begun: int) -> list[Tensor]:
    """The inputs of the outputs' graph: its leaves, and those candidates that were computed before node ``begun``."""
    outside = {(t.grad_fn, t.output_nr): t for t in candidates if t.grad_fn is not None}
    found: dict[int, Tensor] = {}
    seen: set[tuple[Node, int | None]] = set()
    edges = [(t.grad_fn, t.output_nr) for t in outputs]
    while edges:
        edge = edges.pop()
        node = edge[0]
        if node is None or (node, edge[1]) in seen:
            continue
        seen.add((node, edge[1]))
        if edge in outside:
            found[id(outside[edge])] = outside[edge]
        elif hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        elif _number(node) < begun:
            raise NotImplementedError(
                f"the decoder uses a tensor that was computed outside of it ({node.name()}) and requires a gradient: "
                "if samples are computed a block at a time, it must be an argument, be in the decoder's closure, or be "
                "detached; or compute all at once (block=None)"
            )
        elif (node, None) not in seen:
            seen.add((node, None))
            edges.extend(node.next_functions)
    return list(found.values())


def _number(node: Any) -> int:
    """The sequence number of a node of the graph: later nodes have larger numbers."""
    number: int = node._sequence_nr()
    return number


def _is_any_of_another(inputs: list[Tensor]) -> bool:
    """Whether one of them was computed from another: a log-variance from the mean, or a mean by tied weights."""
    ends = {t.grad_fn for t in inputs if t.grad_fn is not None}
    leaves = {id(t) for t in inputs if t.grad_fn is None}
    nodes = [node for end in ends for node, _ in end.next_functions]
    seen: set[Node] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node in ends or id(getattr(node, "variable", None)) in leaves:
            return True
        seen.add(node)
        nodes.extend(before for before, _ in node.next_functions)
    return False
