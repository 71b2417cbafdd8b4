// A formula over rows: its values and their row sums, or the gradients of its operands.
#pragma once
#include "cpu/tiles.h"
#include "formulas/bernoulli.h"
#include "formulas/gaussian.h"

namespace aevb::AEVB_ISA {

// Calls body(vector count, lanes) along `count` elements: whole vectors, then what is left.
template <class T, class Body>
AEVB_INLINE void along(int count, Body body) {
  constexpr int lanes = Vec<T>::lanes;
  int i = 0;
  for (; i + lanes <= count; i += lanes)
    body([i](const T* p) { return Vec<T>::load(p + i); }, [i](Vec<T> v, T* p) { v.store(p + i); });
  if (i < count)
    body([=](const T* p) { return Vec<T>::load(p + i, count - i); },
         [=](Vec<T> v, T* p) { v.store(p + i, count - i); });
}

// The formula's value and gradient with operands and results in arrays.
template <int... i>
struct Indices {};
template <int arity>
struct IndicesOf;
template <>
struct IndicesOf<2> : Indices<0, 1> {};
template <>
struct IndicesOf<3> : Indices<0, 1, 2> {};
template <>
struct IndicesOf<4> : Indices<0, 1, 2, 3> {};

template <class F, class N, int... i>
AEVB_INLINE N value_of(const F& f, const N* in, Indices<i...>) {
  return f.value(in[i]...);
}
template <class F, class N, int... i>
AEVB_INLINE void gradient_of(const F& f, const N* in, N* d, Indices<i...>) {
  f.gradient(in[i]..., d[i]...);
}

template <class T, class F>
void rows_forward(const F& formula, const RowCall& call, int64_t begin, int64_t end) {
  constexpr int arity = F::arity;
  Buffer<T> staged[arity], values;
  const Tiles tile = tiles(call.rows, call.event, call.blocks);
  for (int64_t t = begin; t < end; ++t)
    for_each_chunk(call, tile, t, [&](const Chunk& chunk) {
      const T* in[arity];
      for (int k = 0; k < arity; ++k) in[k] = stage(call.in[k], chunk.flat, chunk.size, call.wide, staged[k]);
      T* out = target(call.value, chunk.flat, call.wide, values);
      along<T>(chunk.size, [&](auto load, auto store) {
        Vec<T> operands[arity];
        for (int k = 0; k < arity; ++k) operands[k] = load(in[k]);
        store(value_of(formula, operands, IndicesOf<arity>()), out);
      });
      deliver(call.value, chunk, out);
    });
}

template <class T, class F>
void rows_backward(const F& formula, const RowCall& call, int64_t begin, int64_t end) {
  constexpr int arity = F::arity;
  Buffer<T> staged[arity], gradients[arity], cotangents;
  const Vec<T> scale(call.cotangent_scale);
  const Tiles tile = tiles(call.rows, call.event, call.blocks);
  for (int64_t t = begin; t < end; ++t)
    for_each_chunk(call, tile, t, [&](const Chunk& chunk) {
      const T* in[arity];
      T* out[arity];
      for (int k = 0; k < arity; ++k) {
        in[k] = stage(call.in[k], chunk.flat, chunk.size, call.wide, staged[k]);
        out[k] = target(call.gradient[k], chunk.flat, call.wide, gradients[k]);
      }
      const T* cotangent = stage(call.cotangent, chunk.flat, chunk.size, call.wide, cotangents);
      along<T>(chunk.size, [&](auto load, auto store) {
        Vec<T> operands[arity], d[arity];
        for (int k = 0; k < arity; ++k) operands[k] = load(in[k]);
        gradient_of(formula, operands, d, IndicesOf<arity>());
        const Vec<T> g = load(cotangent) * scale;
        for (int k = 0; k < arity; ++k)
          if (call.gradient[k].data) store(chain(g, d[k]), out[k]);
      });
      for (int k = 0; k < arity; ++k) deliver(call.gradient[k], chunk, out[k]);
    });
}

// Calls run(formula) for the formula of a call.
template <class Run>
AEVB_INLINE void with_formula(const RowCall& call, Run run) {
  const SpreadOf spread = {call.params.spread};
  switch (call.formula) {
    case Formula::bernoulli: return run(Bernoulli{call.params.x_scale});
    case Formula::gaussian: return run(Gaussian{call.params.x_scale, spread});
    case Formula::gaussian_kl: return run(GaussianKl{spread});
    case Formula::gaussian_kl_prior: return run(GaussianKlPrior{spread});
  }
}

}  // namespace aevb::AEVB_ISA
