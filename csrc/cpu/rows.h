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

// An operand's elements in a chunk: an array of some type or, if `step` is 0 rather than all ones, a single vector for
// all elements. If there are gaps between rows, the processor's own prefetching stops at the end of each row; memory
// that is `prefetch_bytes` ahead, in a later row, is then prefetched here.
struct Run {
  const void* data;
  Type type;
  int step;
  int64_t prefetch_bytes = 0;
};

// The least number of elements that are prefetched ahead, and the number prefetched at a time.
constexpr int kPrefetch = 1024, kStretch = 128;

template <class T>
Run run_of(const Input& input, const Chunk& chunk, Type wide, Buffer<T>& buffer) {
  const int last = input.dims - 1;
  const auto at = [&](int64_t offset) {
    return Run{static_cast<const char*>(input.data) + offset * size_of(input.type), input.type, -1};
  };
  if (last == 0 && input.stride[0] == 1 && converts<T>(input.type)) return at(chunk.flat);
  // Each row is contiguous or one broadcast number, however the rows lie to each other.
  if (chunk.rows == 1 && chunk.size <= input.size[last] &&
      (input.stride[last] == 0 || (input.stride[last] == 1 && converts<T>(input.type)))) {
    int64_t index[kMaxDims];
    const int64_t offset = offset_of(input, chunk.flat, index);
    if (chunk.size <= input.size[last] - index[last]) {
      if (input.stride[last] == 1) {
        Run run = at(offset);
        if (last > 0 && input.size[last] <= kBlock)
          run.prefetch_bytes =
              (input.size[last] + kPrefetch - 1) / input.size[last] * input.stride[last - 1] * size_of(input.type);
        return run;
      }
      gather(input.type, input.data, offset, 0, Vec<T>::lanes, buffer.data);
      return {buffer.data, wide, 0};
    }
  }
  return {stage(input, chunk.flat, chunk.size, wide, buffer), wide, -1};
}

// Whether an operand's rows are read in place, so that chunks need not fit a buffer.
template <class T>
bool stays(const Input& input, const RowCall& call) {
  const int last = input.dims - 1;
  return input.size[last] % call.event == 0 &&
         (input.stride[last] == 0 || (input.stride[last] == 1 && converts<T>(input.type)));
}

// Prefetches what a later row needs, while elements [begin, end) of a run are computed.
inline void prefetch(const Run& run, int begin, int end) {
  if (!run.prefetch_bytes) return;
  const char* const later = static_cast<const char*>(run.data) + run.prefetch_bytes;
  for (int i = begin * size_of(run.type); i < end * size_of(run.type); i += 64) __builtin_prefetch(later + i);
}

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
  template <class Load>
  AEVB_INLINE Vec<T> operator()(Load, Vec<T> derivative) const {
    return g * derivative;
  }
};
template <class T>
struct Cotangents {
  Run run;
  Vec<T> scale;
  template <class Load>
  AEVB_INLINE Vec<T> operator()(Load load, Vec<T> derivative) const {
    return chain(load(run) * scale, derivative);
  }
};

// The results of a pass: the value (where `values`), then the gradients.
template <class T, class Recipe, bool values, bool gradients>
class RowPass {
  using F = typename Recipe::Formula;
  static constexpr int arity = F::arity, results = (values ? 1 : 0) + (gradients ? arity : 0);
  using N = Vec<T>;

 public:
  explicit RowPass(const RowCall& call) : call_(call) {
    if constexpr (values) output_[0] = &call.value;
    if constexpr (gradients)
      for (int k = 0; k < arity; ++k) output_[values + k] = &call.gradient[k];
    bool in_place = true;
    for (int k = 0; k < arity; ++k) in_place = in_place && stays<T>(call.in[k], call);
    for (const Output* out : output_) {
      const Input* const layout = out->layout;
      const bool whole_rows =
          !layout || (layout->stride[layout->dims - 1] == 1 && layout->size[layout->dims - 1] % call.event == 0);
      in_place = in_place && (!out->data || out->per_block || (whole_rows && converts<T>(out->type)));
    }
    if (gradients && call.cotangent.data) in_place = in_place && stays<T>(call.cotangent, call);
    limit_ = in_place ? int(kBlock) : kChunk;
    const auto at_least = [&](int tile) { limit_ = tile > limit_ ? tile : limit_; };
    if (!in_place) {
      at_least(tile_for(call.cotangent));
      for (int k = 0; k < arity; ++k) at_least(tile_for(call.in[k]));
      for (const Output* out : output_)
        if (out->layout) at_least(tile_for(*out->layout));
    }
  }

  void run(int64_t begin, int64_t end) {
    const Tiles tile = tiles(call_.rows, call_.event, call_.blocks);
    for (int64_t t = begin; t < end; ++t)
      for_each_chunk(call_, tile, t, [&](const Chunk& chunk) { one(chunk); }, limit_);
    if (call_.beyond_caches) finish_streams();
  }

 private:
  void one(const Chunk& chunk) {
    Run in[arity];
    for (int k = 0; k < arity; ++k) in[k] = run_of(call_.in[k], chunk, call_.wide, staged_[k]);
    const N scale(call_.cotangent_scale);
    if (!gradients || !call_.cotangent.data) return compute(chunk, in, OneCotangent<T>{scale});
    const Run cotangent = run_of(call_.cotangent, chunk, call_.wide, cotangents_);
    if (!cotangent.step && cotangents_.data[0] != 0)
      compute(chunk, in, OneCotangent<T>{N::load(cotangents_.data) * scale});
    else
      compute(chunk, in, Cotangents<T>{cotangent, scale});
  }

  template <class Chain>
  AEVB_INLINE void compute(const Chunk& chunk, const Run* in, const Chain& chained) {
    void* to[results];
    Type type[results];
    N total[results], stretch[results];
    bool wanted[results], summed[results], streamed[results], buffered[results];
    for (int k = 0; k < results; ++k) {
      const Output& output = *output_[k];
      wanted[k] = output.data;
      // One row's sum is kept in a register; values of several rows are written to a buffer and summed from there.
      summed[k] = output.per_block && chunk.rows == 1;
      void* const in_place = place(output, chunk);
      buffered[k] = !in_place;
      type[k] = buffered[k] ? call_.wide : output.type;
      to[k] = buffered[k] ? computed_[k].data : in_place;
      total[k] = stretch[k] = N(0);
      streamed[k] = call_.beyond_caches && !buffered[k] && type[k] == call_.wide && uintptr_t(to[k]) % sizeof(N) == 0;
    }
    const F formula = Recipe::make(call_.params);
    const auto body = [&](auto load, auto store, auto keep) AEVB_INLINE_BODY {
      N operand[arity], derivative[arity];
      each(IndicesOf<arity>(), [&](int k) AEVB_INLINE_BODY { operand[k] = load(in[k]); });
      const auto put = [&](int k, N result) AEVB_INLINE_BODY {
        // The value is nearly always summed; adding it without a branch keeps the sum in a register.
        if ((values && k == 0) || summed[k]) stretch[k] = stretch[k] + keep(result);
        if (!summed[k]) store(result, type[k], to[k], streamed[k]);
      };
      if constexpr (values) put(0, value_of(formula, operand, IndicesOf<arity>()));
      if constexpr (gradients) {
        gradient_of(formula, operand, derivative, IndicesOf<arity>());
        each(IndicesOf<arity>(), [&](int k) AEVB_INLINE_BODY {
          if (wanted[values + k]) put(values + k, chained(load, derivative[k]));
        });
      }
    };
    constexpr int lanes = N::lanes;
    int i = 0;
    for (const int whole = chunk.size / lanes * lanes; i < whole;) {
      const int end = whole - i < kStretch ? whole : i + kStretch;
      for (int k = 0; k < arity; ++k) prefetch(in[k], i, end);
      for (; i < end; i += lanes)
        body([i](const Run& run) AEVB_INLINE_BODY { return load_from<T>(run.type, run.data, i & run.step); },
             [i](N v, Type type, void* p, bool streamed)
                 AEVB_INLINE_BODY { streamed ? v.stream(static_cast<T*>(p) + i) : store_to(type, p, i, v); },
             [](N v) AEVB_INLINE_BODY { return v; });
      // Each stretch has its own sum: a single sum over a long row of similar terms would lose a digit.
      for (int k = 0; k < results; ++k) {
        total[k] = total[k] + stretch[k];
        stretch[k] = N(0);
      }
    }
    if (const int rest = chunk.size - i; rest > 0)
      body([=](const Run& run) { return load_from<T>(run.type, run.data, i & run.step, rest); },
           [=](N v, Type type, void* p, bool) { store_to(type, p, i, v, rest); }, [=](N v) { return v.first(rest); });
    for (int k = 0; k < results; ++k) {
      if (summed[k])
        add_block_sum(*output_[k], chunk, 0, sum(total[k] + stretch[k]));
      else if (wanted[k] && buffered[k])
        deliver<true>(*output_[k], chunk, computed_[k], call_.beyond_caches);
    }
  }

  const RowCall& call_;
  const Output* output_[results];
  int limit_;
  Buffer<T> staged_[arity], computed_[results], cotangents_;
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
