"""The backward of sums over many samples: each block is evaluated again, as activation checkpoints do.

By then the normalised weights are known. The last block alone is kept from the first pass.
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
    """What :func:`~.stream.streamed` gives, differentiable; blocks are (first sample, how many), one after another."""
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
    """What the backward needs beside tensors."""

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
        """The terms of each block with their graph, one block after another."""
        kept, self.kept = self.kept, None
        blocks = self.blocks
        if kept is not None:  # not so in a second backward
            blocks = blocks[:-1]
            yield kept
            del kept
        with self.state.again():
            for each in blocks:
                yield self.terms(*each)

    def cotangents(self, terms: Terms, given: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Of a block's values (and its port) that have a graph: they, and their cotangents."""
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
    """Results that are known, of inputs that are found: gradients go where autograd's own would, all at once."""

    @staticmethod
    def forward(
        ctx: Any, recomputation: _Recomputation, results: tuple[Tensor, ...], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.recomputation = recomputation
        ctx.save_for_backward(*inputs)  # so that one which was changed in place is noticed
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
                        if before is None:  # what autograd hands out may be shared
                            sums[i] = g
                        elif owned[i]:
                            before.add_(g)
                        else:
                            sums[i], owned[i] = before + g, True
                del gradients
        return None, None, *sums


class _State:
    """What a block depends on beside tensors: the generators' states and autocast's, both as they are now."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._device = None
        if torch.cuda.is_available() and torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
            self._device = torch.cuda.get_rng_state()
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        self._autocast = [(d, torch.get_autocast_dtype(d)) for d in devices if torch.is_autocast_enabled(d)]

    @contextlib.contextmanager
    def without_autocast_cache(self) -> Iterator[None]:
        """A cast that is kept from where gradients are off has none to give where they are on."""
        with contextlib.ExitStack() as stack:
            for device, dtype in self._autocast:
                stack.enter_context(torch.autocast(device, dtype, cache_enabled=False))
            yield

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """As it was."""
        with torch.random.fork_rng(devices=[] if self._device is None else None), self.without_autocast_cache():
            torch.set_rng_state(self._cpu)
            if self._device is not None:
                torch.cuda.set_rng_state(self._device)
            yield


@contextlib.contextmanager
def _without_hooks(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Hooks of the user are for the whole gradient, and are called with it: not with the part of each block."""
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
    """Gradients go no further than these: what they were computed from gets its part afterwards, of the sum."""
    nodes = {t.grad_fn for t in tensors if t.grad_fn is not None}
    handles = [node.register_prehook(lambda cotangents: (None,) * len(cotangents)) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(source: Any) -> Iterator[Tensor]:
    """Those in tuples, distributions and what functions are bound to, without their modules' parameters."""
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
    """The leaves, and of the candidates computed before node number ``begun``, that the outputs' graph begins with."""
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
                f"the decoder uses a tensor that was computed outside of it ({node.name()}) and has a gradient: where "
                "samples are taken a block at a time, it must be given as an argument, be in the decoder's closure, or "
                "be detached; or take all at once (block=None)"
            )
        elif (node, None) not in seen:
            seen.add((node, None))
            edges.extend(node.next_functions)
    return list(found.values())


def _number(node: Any) -> int:
    """Of a node of the graph: later ones have larger numbers."""
    number: int = node._sequence_nr()
    return number


def _is_any_of_another(inputs: list[Tensor]) -> bool:
    """Whether one of them was computed from another: a log variance from the mean, a mean by weights that are tied."""
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
