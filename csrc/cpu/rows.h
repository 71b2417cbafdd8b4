// A formula over rows: its values and their row sums, the gradients of its operands, or both in one pass.
#pragma once
#include "cpu/tiles.h"
#include "formulas/bernoulli.h"
#include "formulas/gaussian.h"

namespace aevb::AEVB_ISA {

// Calls body(load, store) along `count` elements: for whole vectors, then for the rest.
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

// The least number of elements that are prefetched ahead, and the number computed between two prefetches.
constexpr int kPrefetch = 1024, kStretch = 128;

// An operand, whose elements of a chunk are a contiguous array of the arithmetic's type: in place, or converted and
// copied to a buffer that stays in the first-level cache. The loop over them has no cases then.
template <class T>
class Operand {
 public:
  explicit Operand(const Input& input) : input_(input) {
    if (!input.data) return;
    const int last = input.dims - 1;
    const bool rows = input.stride[last] == 1 && last > 0 && input.size[last] <= kBlock;
    if (rows) ahead_ = (input.size[last] + kPrefetch - 1) / input.size[last] * input.stride[last - 1];
  }

  // Whether all its elements of a row's chunk are read in place, however the rows lie to each other.
  bool stays(int64_t event, Type wide) const {
    const int last = input_.dims - 1;
    return input_.type == wide && input_.stride[last] == 1 && input_.size[last] % event == 0;
  }

  const T* of(const Chunk& chunk, Type wide) {
    const int last = input_.dims - 1;
    int64_t index[kMaxDims];
    const int64_t offset = offset_of(input_, chunk.flat, index);
    const bool one_run = chunk.size <= input_.size[last] - index[last];
    in_place_ = one_run && input_.stride[last] == 1 && input_.type == wide;
    if (in_place_) return static_cast<const T*>(input_.data) + offset;
    one_number_ = one_run && input_.stride[last] == 0;
    if (one_number_ && offset == copied_ && chunk.size <= copies_) return buffer_.data;
    copied_ = one_number_ ? offset : -1, copies_ = chunk.size;
    if (one_run && input_.stride[last] == 1) prefetch(offset, chunk.size);
    return stage(input_, chunk.flat, chunk.size, wide, buffer_);
  }

  // Of the chunk that was asked for last: whether it is one number for all elements.
  bool one_number() const { return one_number_; }

  // Where elements that are read in place have others a row or more ahead: the processor's own prefetching stops at the
  // end of each row.
  int64_t ahead() const { return in_place_ ? ahead_ : 0; }

 private:
  void prefetch(int64_t offset, int count) const {
    const char* const later = static_cast<const char*>(input_.data) + (offset + ahead_) * size_of(input_.type);
    if (ahead_)
      for (int i = 0; i < count * size_of(input_.type); i += 64) __builtin_prefetch(later + i);
  }

  const Input& input_;
  int64_t ahead_ = 0, copied_ = -1;
  int copies_ = 0;
  bool in_place_ = false, one_number_ = false;
  Buffer<T> buffer_;
};

// Adapters that call a formula's value and gradient with operands and results in arrays.
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

// A loop that is unrolled before the compiler allocates registers.
template <class Body, int... i>
AEVB_INLINE void each(Indices<i...>, Body body) {
  (body(i), ...);
}

template <class F, class N, int... i>
AEVB_INLINE N value_of(const F& f, const N* in, Indices<i...>) {
  return f.value(in[i]...);
}
template <class F, class N, int... i>
AEVB_INLINE void gradient_of(const F& f, const N* in, N* d, Indices<i...>) {
  f.gradient(in[i]..., d[i]...);
}

// Whether two arrays that are streamed in step hinder each other. A processor gathers the parts of a line before it
// writes it, and tells lines apart by their place in a page: two at the same place took more than twice as long. A
// vector that is a whole line is not gathered.
inline bool collide(const void* a, const void* b) {
  const uintptr_t apart = (uintptr_t(a) - uintptr_t(b)) % 4096;
  return kVectorBytes < 64 && (apart < 64 || apart > 4096 - 64);
}

// Makes a call's formula where it is used; with `logvar` the compiler knows which of the four spreads it is.
template <class F, bool logvar>
struct Recipe {
  using Formula = F;

  AEVB_INLINE static F make(const Params& params) {
    const SpreadOf spread = {logvar ? Spread::logvar : params.spread};
    if constexpr (!has_spread<F>)
      return {params.x_scale};
    else if constexpr (has_x_scale<F>)
      return {params.x_scale, spread};
    else
      return {spread};
  }
};

// The cotangent of a whole chunk, if it is a single number (and not zero, which needs `chain`).
template <class T>
struct OneCotangent {
  Vec<T> g;
  AEVB_INLINE Vec<T> operator()(int, Vec<T> derivative) const { return g * derivative; }
  OneCotangent last(int, int, T*) const { return *this; }
};
template <class T>
struct Cotangents {
  const T* g;
  Vec<T> scale;
  AEVB_INLINE Vec<T> operator()(int i, Vec<T> derivative) const {
    return chain(Vec<T>::load(g + i) * scale, derivative);
  }
  Cotangents last(int whole, int rest, T* copy) const {
    Vec<T>::load(g + whole, rest).store(copy);
    return {copy, scale};
  }
};

// The results of a pass: the value (where `values`), then the gradients.
template <class T, class Recipe, bool values, bool gradients>
class RowPass {
  using F = typename Recipe::Formula;
  static constexpr int arity = F::arity, results = (values ? 1 : 0) + (gradients ? arity : 0);
  using N = Vec<T>;

  // Contiguous elements of all operands and results.
  struct Arrays {
    const T* in[arity];
    int64_t ahead[arity];
    T* to[results];  // null: not wanted, or a value whose sum alone is
    bool streamed[results];
  };

 public:
  explicit RowPass(const RowCall& call) : RowPass(call, IndicesOf<arity>()) {}

  void run(int64_t begin, int64_t end) {
    const Tiles tile = tiles(call_.rows, call_.event, call_.blocks);
    for (int64_t t = begin; t < end; ++t)
      for_each_chunk(call_, tile, t, [&](const Chunk& chunk) { one(chunk); }, limit_);
    if (call_.beyond_caches) finish_streams();
  }

 private:
  template <int... i>
  RowPass(const RowCall& call, Indices<i...>)
      : call_(call), in_{Operand<T>(call.in[i])...}, cotangents_(call.cotangent) {
    if constexpr (values) output_[0] = &call.value;
    if constexpr (gradients)
      for (int k = 0; k < arity; ++k) output_[values + k] = &call.gradient[k];
    bool in_place = true;
    const auto holds = [&](bool condition) { in_place = in_place && condition; };
    for (int k = 0; k < arity; ++k) holds(in_[k].stays(call.event, call.wide));
    for (const Output* out : output_) {
      const Input* const layout = out->layout;
      const bool whole_rows =
          !layout || (layout->stride[layout->dims - 1] == 1 && layout->size[layout->dims - 1] % call.event == 0);
      holds(!out->data || (values && out == output_[0] && out->per_block) ||
            (whole_rows && !out->per_block && out->type == call.wide));
    }
    if (gradients && call.cotangent.data) {
      const Input& g = call.cotangent;
      holds(g.stride[g.dims - 1] == 0 && g.size[g.dims - 1] % call.event == 0);
    }
    limit_ = in_place ? kTile : kChunk;
    const auto at_least = [&](int tile) { limit_ = tile > limit_ ? tile : limit_; };
    if (!in_place) {
      at_least(tile_for(call.cotangent));
      for (int k = 0; k < arity; ++k) at_least(tile_for(call.in[k]));
      for (const Output* out : output_)
        if (out->layout) at_least(tile_for(*out->layout));
    }
  }

  void one(const Chunk& chunk) {
    Arrays arrays;
    for (int k = 0; k < arity; ++k) {
      arrays.in[k] = in_[k].of(chunk, call_.wide);
      arrays.ahead[k] = in_[k].ahead();
    }
    const N scale(call_.cotangent_scale);
    if (!gradients || !call_.cotangent.data) return finish(chunk, arrays, OneCotangent<T>{scale});
    const T* const g = cotangents_.of(chunk, call_.wide);
    if (cotangents_.one_number() && *g != 0)
      finish(chunk, arrays, OneCotangent<T>{N(double(*g)) * scale});
    else
      finish(chunk, arrays, Cotangents<T>{g, scale});
  }

  template <class Chain>
  void finish(const Chunk& chunk, Arrays& arrays, const Chain& chained) {
    // One row's sum is kept in a register; values of several rows are written to a buffer and summed from there.
    const bool summed = values && output_[0]->per_block && chunk.rows == 1;
    for (int k = 0; k < results; ++k) {
      const Output& output = *output_[k];
      const bool wanted = output.data && !(summed && k == 0);
      arrays.to[k] = wanted ? target(output, chunk, call_.wide, computed_[k]) : nullptr;
      arrays.streamed[k] = wanted && call_.beyond_caches && arrays.to[k] != computed_[k].data &&
                           uintptr_t(arrays.to[k]) % sizeof(N) == 0;
      for (int j = 0; j < k; ++j)
        if (arrays.streamed[j] && collide(arrays.to[j], arrays.to[k])) arrays.streamed[k] = false;
    }
    const int rest = chunk.size % N::lanes, whole = chunk.size - rest;
    N total = compute(arrays, whole, call_.params, chained);
    if (rest) total = total + last(arrays, whole, rest, chained);
    if (summed) add_block_sum(*output_[0], chunk, 0, sum(total));
    for (int k = 0; k < results; ++k)
      if (arrays.to[k] == computed_[k].data) deliver<true>(*output_[k], chunk, computed_[k], call_.beyond_caches);
  }

  // The last elements, fewer than a vector, are computed as a whole one.
  template <class Chain>
  N last(const Arrays& arrays, int whole, int rest, const Chain& chained) {
    alignas(64) T in[arity][N::lanes], g[N::lanes], to[results][N::lanes];
    Arrays one = {};
    for (int k = 0; k < arity; ++k) {
      N::load(arrays.in[k] + whole, rest).store(in[k]);
      one.in[k] = in[k];
    }
    for (int k = 0; k < results; ++k) one.to[k] = arrays.to[k] ? to[k] : nullptr;
    const N total = compute(one, N::lanes, call_.params, chained.last(whole, rest, g));
    for (int k = 0; k < results; ++k)
      if (arrays.to[k]) N::load(to[k]).store(arrays.to[k] + whole, rest);
    return total.first(rest);
  }

  // Computes `count` elements, which are whole vectors. The result is the sum of the values. Arguments are copies,
  // which the compiler knows that no store changes.
  template <class Chain>
  static __attribute__((noinline)) N compute(const Arrays arrays, int count, const Params params, const Chain chained) {
    const F formula = Recipe::make(params);
    N total(0.0);
    for (int i = 0; i < count;) {
      const int end = count - i < kStretch ? count : i + kStretch;
      for (int k = 0; k < arity; ++k)
        if (arrays.ahead[k])
          for (int at = i; at < end; at += 64 / sizeof(T)) __builtin_prefetch(arrays.in[k] + arrays.ahead[k] + at);
      // Each stretch has its own sum: a single sum over a long row of similar terms would lose a digit.
      N stretch(0.0);
      for (; i < end; i += N::lanes) {
        N operand[arity], derivative[arity];
        each(IndicesOf<arity>(), [&](int k) AEVB_INLINE_BODY { operand[k] = N::load(arrays.in[k] + i); });
        const auto put = [&](int k, N result) AEVB_INLINE_BODY {
          arrays.streamed[k] ? result.stream(arrays.to[k] + i) : result.store(arrays.to[k] + i);
        };
        if constexpr (values) {
          const N value = value_of(formula, operand, IndicesOf<arity>());
          stretch = stretch + value;
          if (arrays.to[0]) put(0, value);
        }
        if constexpr (gradients) {
          gradient_of(formula, operand, derivative, IndicesOf<arity>());
          each(IndicesOf<arity>(), [&](int k) AEVB_INLINE_BODY {
            if (arrays.to[values + k]) put(values + k, chained(i, derivative[k]));
          });
        }
      }
      total = total + stretch;
    }
    return total;
  }

  const RowCall& call_;
  const Output* output_[results];
  int limit_;
  Operand<T> in_[arity], cotangents_;
  Buffer<T> computed_[results];
};

// Calls run(recipe) for the formula of a call.
template <class Run>
void with_formula(const RowCall& call, Run run) {
  if (call.formula == Formula::bernoulli) return run(Recipe<Bernoulli, true>());
  if (call.formula == Formula::bernoulli_of_probs) return run(Recipe<BernoulliOfProbs, true>());
  if (call.formula == Formula::gaussian_of_sigmoid) return run(Recipe<GaussianOfSigmoid, true>());
  const auto gaussian = [&](auto logvar) {
    switch (call.formula) {
      case Formula::gaussian: return run(Recipe<Gaussian, logvar>());
      case Formula::gaussian_kl: return run(Recipe<GaussianKl, logvar>());
      default: return run(Recipe<GaussianKlPrior, logvar>());
    }
  };
  call.params.spread == Spread::logvar ? gaussian(std::true_type()) : gaussian(std::false_type());
}

}  // namespace aevb::AEVB_ISA
